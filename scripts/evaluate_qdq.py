"""Write qdq.json: what the fake-quantised decoder reaches on the evaluation tasks, and how near it is to the float32
decoder on the same tokens."""

from pathlib import Path

from hexport.provenance import write_json
from hexport.script_command import evaluation_options, job_command, quantised_model_options
from hexport.script_job import ScriptJob, files_of_model, files_of_tokenizer

SETTINGS = (
    'JSON: {"tasks": […], "limit": documents per task or null, "num_fewshot", "max_seq_len", "recipe": its name, '
    '"recipe_spec": its content}, and with task files "trusted": {task: file}'
)


@job_command(SETTINGS)
@quantised_model_options
@evaluation_options
def main(
    job: ScriptJob,
    checkpoint: Path,
    quant_attrs: Path,
    weights: Path | None,
    tokenizer: Path,
    texts: tuple[str, ...],
    states: Path,
    output: Path,
) -> None:
    with job.progress.library_output_in_log():
        from hexport.qnn_sdk import use_qnn_sdk

        use_qnn_sdk()  # without one, executorch's quantiser tries to download an SDK
        from hexport.decoder.device import machine
        from hexport.evaluation.gates import ratio_warnings
        from hexport.evaluation.local_text import local_files
        from hexport.evaluation.qdq_phase import qdq_evaluation
        from hexport.evaluation.tasks import task_inputs

        local = local_files(texts)
        job.reads(files_of_model(checkpoint) | {"quant_attrs.json": quant_attrs, "weights.safetensors": weights})
        job.reads(files_of_tokenizer(tokenizer) | task_inputs(local, job.settings.get("trusted")))
        with job.made_once(output, cached=False) as there:  # what a task of the Hub holds is in no input
            if there:
                return
            model = checkpoint, quant_attrs, weights
            facts = qdq_evaluation(model, tokenizer, local, job.settings, states, job.progress)
            write_json(output, facts)
            for line in ratio_warnings(facts):
                job.progress.say(line)
            job.write_manifest(output, machine=machine())


if __name__ == "__main__":
    main()
