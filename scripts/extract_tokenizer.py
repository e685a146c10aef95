"""Write tokenizer.json and tokenizer_config.json of a tokenizer.model, a tokenizer.json, a GGUF file or a folder."""

from pathlib import Path

import click

from hexport.errors import one_line_errors
from hexport.provenance import write_json, write_text
from hexport.script_job import ScriptJob
from hexport.settings_option import settings_option
from hexport.tokenizers.files import tokenizer_files
from hexport.tokenizers.source import read_tokenizer


@click.command(help=__doc__)
@settings_option(help="JSON: {}")
@click.option("--source", type=click.Path(path_type=Path), required=True)
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("--log", type=click.Path(path_type=Path))
@one_line_errors
def main(settings: dict, source: Path, output: Path, log: Path | None) -> None:
    job = ScriptJob(__file__, settings, log)
    with job.progress.stage("tokenizer"):
        job.reads({file.name: file for file in tokenizer_files(source)})
        text, config = read_tokenizer(source)
        write_text(output, text)
        write_json(output.with_name("tokenizer_config.json"), config)
    artifacts = output, output.with_name("tokenizer_config.json")
    job.write_manifest(*artifacts)


if __name__ == "__main__":
    main()
