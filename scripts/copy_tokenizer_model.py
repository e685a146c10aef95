"""Copy the published tokenizer.model, SentencePiece's or tiktoken's, of a tokenizer."""

import shutil
from pathlib import Path

import click

from hexport.errors import one_line_errors
from hexport.provenance import atomic_path
from hexport.script_job import ScriptJob
from hexport.settings_option import settings_option
from hexport.tokenizers.files import published_model


@click.command(help=__doc__)
@settings_option(help="JSON: {}")
@click.option("--source", type=click.Path(path_type=Path), required=True)
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("--log", type=click.Path(path_type=Path))
@one_line_errors
def main(settings: dict, source: Path, output: Path, log: Path | None) -> None:
    job = ScriptJob(__file__, settings, log)
    with job.progress.stage("tokenizer.model"):
        model = published_model(source)
        job.reads({model.name: model})
        with atomic_path(output) as temporary:
            shutil.copyfile(model, temporary)
    job.write_manifest(output)


if __name__ == "__main__":
    main()
