"""Write the canonical checkpoint, model.safetensors and config.json, of a GGUF file or a Hugging Face folder."""

import json
from pathlib import Path

import click

from hexport.checkpoints.canonical import check_tensors, write_safetensors
from hexport.checkpoints.source import read_checkpoint, source_files
from hexport.errors import one_line_errors
from hexport.progress import Progress
from hexport.provenance import write_json, write_manifest


@click.command(help=__doc__)
@click.option("--settings", type=json.loads, required=True, help='JSON: {"sha256": hex or null}')
@click.option("--source", type=click.Path(path_type=Path), required=True)
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("--log", type=click.Path(path_type=Path))
@one_line_errors
def main(settings: dict, source: Path, output: Path, log: Path | None) -> None:
    progress = Progress(log)
    with progress.stage("read"):
        inputs = source_files(source, settings["sha256"])
        config, tensors = read_checkpoint(source)
        tensors = check_tensors(tensors, config, str(source))
    with progress.stage("write"):
        write_safetensors(output, tensors, str(source))
        write_json(output.with_name("config.json"), config)
    for artifact in (output, output.with_name("config.json")):
        write_manifest(artifact, inputs=inputs, params=settings, stages=progress.stages)


if __name__ == "__main__":
    main()
