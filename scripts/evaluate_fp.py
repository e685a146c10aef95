"""Write fp.json: what the float32 decoder reaches on the evaluation tasks, the reference for the other phases."""

from pathlib import Path

import click

from hexport.errors import one_line_errors
from hexport.made_once import made_once
from hexport.progress import Progress
from hexport.provenance import verified, write_json, write_manifest
from hexport.settings_option import settings_option

SETTINGS = 'JSON: {"tasks": […], "limit": documents per task or null, "num_fewshot", "max_seq_len"}'


@click.command(help=__doc__)
@settings_option(help=SETTINGS)
@click.option("--checkpoint", type=click.Path(path_type=Path), required=True, help="…/checkpoint/model.safetensors")
@click.option("--tokenizer", type=click.Path(path_type=Path), required=True, help="…/tokenizer/tokenizer.json")
@click.option("--local", "texts", multiple=True, metavar="NAME=PATH", help="the file of a task that is a local text")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="…/evaluation/fp.json")
@click.option("--log", type=click.Path(path_type=Path))
@one_line_errors
def main(
    settings: dict, checkpoint: Path, tokenizer: Path, texts: tuple[str, ...], output: Path, log: Path | None
) -> None:
    progress = Progress(log)
    with progress.library_output_in_log():
        from hexport.decoder.device import machine
        from hexport.evaluation.fp_phase import fp_evaluation
        from hexport.evaluation.local_text import local_files
        from hexport.evaluation.tasks import task_inputs

        local = local_files(texts)
        files = checkpoint, checkpoint.with_name("config.json"), tokenizer, tokenizer.with_name("tokenizer_config.json")
        inputs = verified({file.name: file for file in files} | task_inputs(local, settings.get("trusted")))
        # What a task of the Hub holds is in no input.
        with made_once([output], __file__, inputs, settings, progress, cached=False) as there:
            if there:
                return
            write_json(output, fp_evaluation(checkpoint, tokenizer, local, settings, progress))
            stages = progress.stages
            write_manifest(output, script=__file__, inputs=inputs, params=settings, stages=stages, machine=machine())


if __name__ == "__main__":
    main()
