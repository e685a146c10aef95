"""Write fp.json: what the float32 decoder reaches on the evaluation tasks, the reference for the other phases."""

from pathlib import Path

from hexport.provenance import write_json
from hexport.script_command import checkpoint_option, evaluation_options, job_command
from hexport.script_job import ScriptJob, files_of_model, files_of_tokenizer

SETTINGS = (
    'JSON: {"tasks": […], "limit": documents per task or null, "num_fewshot", "max_seq_len"}, and with task files '
    '"trusted": {task: file}'
)


@job_command(SETTINGS)
@checkpoint_option
@evaluation_options
def main(job: ScriptJob, checkpoint: Path, tokenizer: Path, texts: tuple[str, ...], states: Path, output: Path) -> None:
    with job.progress.library_output_in_log():
        from hexport.decoder.device import machine
        from hexport.evaluation.fp_phase import fp_evaluation
        from hexport.evaluation.local_text import local_files
        from hexport.evaluation.tasks import task_inputs

        local = local_files(texts)
        job.reads(files_of_model(checkpoint) | files_of_tokenizer(tokenizer))
        job.reads(task_inputs(local, job.settings.get("trusted")))
        with job.made_once(output, cached=False) as there:  # what a task of the Hub holds is in no input
            if there:
                return
            write_json(output, fp_evaluation(checkpoint, tokenizer, local, job.settings, states, job.progress))
            job.write_manifest(output, machine=machine())


if __name__ == "__main__":
    main()
