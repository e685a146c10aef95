"""Write the canonical checkpoint, model.safetensors and config.json, of a published one in any format."""

from pathlib import Path

import click

from hexport.checkpoints.canonical import check_tensors, write_safetensors
from hexport.checkpoints.files import find_checkpoint
from hexport.checkpoints.source import check_weights, read_checkpoint
from hexport.errors import one_line_errors
from hexport.provenance import write_json
from hexport.script_job import ScriptJob
from hexport.settings_option import settings_option


@click.command(help=__doc__)
@settings_option(help='JSON: {"sha256": hex|null, "params": path|null}')
@click.option("--source", type=click.Path(path_type=Path), required=True)
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("--log", type=click.Path(path_type=Path))
@one_line_errors
def main(settings: dict, source: Path, output: Path, log: Path | None) -> None:
    job, beside = ScriptJob(__file__, settings, log), output.with_name("config.json")
    params = settings["params"]
    published = find_checkpoint(source, None if params is None else Path(params))
    job.reads({file.name: file for file in published.files})
    with job.made_once(output, beside) as there:
        if there:
            return
        with job.progress.stage("read"):
            check_weights(published, settings["sha256"])
            config, tensors = read_checkpoint(published)
            tensors = check_tensors(tensors, config, str(source))
        with job.progress.stage("write"):
            write_safetensors(output, tensors, str(source))
            write_json(beside, config)
        job.write_manifest(output, beside)


if __name__ == "__main__":
    main()
