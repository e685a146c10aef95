"""Write tokenizer.bin, the format of llama2.c, of a SentencePiece model."""

from pathlib import Path

from hexport.provenance import atomic_path
from hexport.script_command import file_option, job_command
from hexport.script_job import ScriptJob
from hexport.tokenizers.llama2c import sentencepiece_file, write_tokenizer_bin


@job_command("JSON: {}")
@file_option("--source")
def main(job: ScriptJob, source: Path, output: Path) -> None:
    with job.progress.library_output_in_log(), job.progress.stage("tokenizer.bin"):
        model = sentencepiece_file(source)
        job.reads({model.name: model})
        with atomic_path(output) as temporary:
            write_tokenizer_bin(model, temporary)
    job.write_manifest(output)


if __name__ == "__main__":
    main()
