"""Copy the published tokenizer.model, SentencePiece's or tiktoken's, of a tokenizer."""

import shutil
from pathlib import Path

import click

from hexport.errors import one_line_errors
from hexport.progress import Progress
from hexport.provenance import atomic_path, verified, write_manifest
from hexport.settings_option import settings_option
from hexport.tokenizers.files import published_model


@click.command(help=__doc__)
@settings_option(help="JSON: {}")
@click.option("--source", type=click.Path(path_type=Path), required=True)
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("--log", type=click.Path(path_type=Path))
@one_line_errors
def main(settings: dict, source: Path, output: Path, log: Path | None) -> None:
    progress = Progress(log)
    with progress.stage("tokenizer.model"):
        model = published_model(source)
        inputs = verified({model.name: model})
        with atomic_path(output) as temporary:
            shutil.copyfile(model, temporary)
    write_manifest(output, script=__file__, inputs=inputs, params=settings, stages=progress.stages)


if __name__ == "__main__":
    main()
