"""Download the file that a URI names."""

import json
from pathlib import Path

import click

from hexport.checkpoints.fetch import fetch
from hexport.errors import one_line_errors
from hexport.progress import Progress
from hexport.provenance import write_manifest


@click.command(help=__doc__)
@click.option("--settings", type=json.loads, required=True, help='JSON: {"uri": …, "sha256": hex or null}')
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("--log", type=click.Path(path_type=Path))
@one_line_errors
def main(settings: dict, output: Path, log: Path | None) -> None:
    progress = Progress(log)
    with progress.stage("fetch"):
        fetch(settings["uri"], settings["sha256"], output)
    write_manifest(output, inputs={}, params=settings, stages=progress.stages)


if __name__ == "__main__":
    main()
