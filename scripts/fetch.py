"""Download what a URI names: a file, or the files of a repository."""

from pathlib import Path

import click

from hexport.errors import one_line_errors
from hexport.script_job import ScriptJob
from hexport.settings_option import settings_option

SETTINGS = 'JSON: {"uri": …, "sha256": hex or null}, or for a repository {"uri": …, "weights": true or false}'


@click.command(help=__doc__)
@settings_option(help=SETTINGS)
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("--log", type=click.Path(path_type=Path))
@one_line_errors
def main(settings: dict, output: Path, log: Path | None) -> None:
    from hexport.checkpoints.fetch import fetch

    job = ScriptJob(__file__, settings, log)
    with job.progress.stage("fetch"):
        sha256, weights = settings.get("sha256"), settings.get("weights", True)
        facts = fetch(settings["uri"], sha256, output, weights=weights, say=job.progress.say)
    job.write_manifest(output, **facts)


if __name__ == "__main__":
    main()
