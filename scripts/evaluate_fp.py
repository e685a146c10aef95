"""Write fp.json: what the float32 decoder reaches on the evaluation tasks, the reference for the other phases."""

from pathlib import Path

import click

from hexport.errors import one_line_errors
from hexport.provenance import write_json
from hexport.script_job import ScriptJob, files_of_model, files_of_tokenizer
from hexport.settings_option import settings_option

SETTINGS = (
    'JSON: {"tasks": […], "limit": documents per task or null, "num_fewshot", "max_seq_len"}, and with task files '
    '"trusted": {task: file}'
)


@click.command(help=__doc__)
@settings_option(help=SETTINGS)
@click.option("--checkpoint", type=click.Path(path_type=Path), required=True, help="…/checkpoint/model.safetensors")
@click.option("--tokenizer", type=click.Path(path_type=Path), required=True, help="…/tokenizer/tokenizer.json")
@click.option("--local", "texts", multiple=True, metavar="NAME=PATH", help="the file of a task that is a local text")
@click.option("--states", type=click.Path(path_type=Path), required=True, help="folder of hidden states to be shared")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="…/evaluation/fp.json")
@click.option("--log", type=click.Path(path_type=Path))
@one_line_errors
def main(
    settings: dict,
    checkpoint: Path,
    tokenizer: Path,
    texts: tuple[str, ...],
    states: Path,
    output: Path,
    log: Path | None,
) -> None:
    job = ScriptJob(__file__, settings, log)
    with job.progress.library_output_in_log():
        from hexport.decoder.device import machine
        from hexport.evaluation.fp_phase import fp_evaluation
        from hexport.evaluation.local_text import local_files
        from hexport.evaluation.tasks import task_inputs

        local = local_files(texts)
        job.reads(
            files_of_model(checkpoint) | files_of_tokenizer(tokenizer) | task_inputs(local, settings.get("trusted"))
        )
        with job.made_once(output, cached=False) as there:  # what a task of the Hub holds is in no input
            if there:
                return
            write_json(output, fp_evaluation(checkpoint, tokenizer, local, settings, states, job.progress))
            job.write_manifest(output, machine=machine())


if __name__ == "__main__":
    main()
