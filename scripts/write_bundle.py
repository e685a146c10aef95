"""Write a bundle of a program: a folder with all that an app team needs to run it, and an archive of that folder."""

import shutil
from pathlib import Path

import click

from hexport.errors import one_line_errors
from hexport.provenance import atomic_path
from hexport.script_job import ScriptJob, files_of_tokenizer
from hexport.settings_option import settings_option

SETTINGS = (
    'JSON: {"model", "recipe", "target", "mode", "prompt", "system_prompt", "seq_len", "licence"}, and the sizes of '
    "lookahead"
)


@click.command(help=__doc__)
@settings_option(help=SETTINGS)
@click.option("--program", type=click.Path(path_type=Path), required=True, help="the .pte, with its manifest beside it")
@click.option("--tokenizer", type=click.Path(path_type=Path), required=True, help="…/tokenizer/tokenizer.json")
@click.option("--folder", type=click.Path(path_type=Path), required=True)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="the archive, a .tar")
@click.option("--log", type=click.Path(path_type=Path))
@one_line_errors
def main(settings: dict, program: Path, tokenizer: Path, folder: Path, output: Path, log: Path | None) -> None:
    job = ScriptJob(__file__, settings, log)
    with job.progress.library_output_in_log():
        from hexport.bundles.bundle import Bundle, write_archive, write_bundle
        from hexport.runtime.program import checked_facts

        job.reads({program.name: program} | files_of_tokenizer(tokenizer))
        with job.progress.stage("bundle"):
            shutil.rmtree(folder, ignore_errors=True)
            write_bundle(Bundle(program, checked_facts(program), tokenizer, settings), folder)
            with atomic_path(output) as part:
                write_archive(folder, output.stem, part)
        job.write_manifest(output)


if __name__ == "__main__":
    main()
