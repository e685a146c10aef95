"""Copy the published tokenizer.model, SentencePiece's or tiktoken's, of a tokenizer."""

import shutil
from pathlib import Path

from hexport.provenance import atomic_path
from hexport.script_command import file_option, job_command
from hexport.script_job import ScriptJob
from hexport.tokenizers.files import published_model


@job_command("JSON: {}")
@file_option("--source")
def main(job: ScriptJob, source: Path, output: Path) -> None:
    with job.progress.stage("tokenizer.model"):
        model = published_model(source)
        job.reads({model.name: model})
        with atomic_path(output) as temporary:
            shutil.copyfile(model, temporary)
    job.write_manifest(output)


if __name__ == "__main__":
    main()
