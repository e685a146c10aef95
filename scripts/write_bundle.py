"""Write a bundle of a program: a folder with all that an app team needs to run it, and an archive of that folder."""

import shutil
from pathlib import Path

from hexport.provenance import atomic_path
from hexport.script_command import file_option, job_command, tokenizer_option
from hexport.script_job import ScriptJob, files_of_tokenizer

SETTINGS = (
    'JSON: {"model", "recipe", "target", "mode", "prompt", "system_prompt", "seq_len", "licence"}, and the sizes of '
    "lookahead"
)


@job_command(SETTINGS)
@file_option("--program", help="the .pte, with its manifest beside it")
@tokenizer_option
@file_option("--folder")
def main(job: ScriptJob, program: Path, tokenizer: Path, folder: Path, output: Path) -> None:
    with job.progress.library_output_in_log():
        from hexport.bundles.bundle import Bundle, write_archive, write_bundle
        from hexport.runtime.program import checked_facts

        job.reads({program.name: program} | files_of_tokenizer(tokenizer))
        with job.progress.stage("bundle"):
            shutil.rmtree(folder, ignore_errors=True)
            write_bundle(Bundle(program, checked_facts(program), tokenizer, job.settings), folder)
            with atomic_path(output) as part:
                write_archive(folder, output.stem, part)
        job.write_manifest(output)


if __name__ == "__main__":
    main()
