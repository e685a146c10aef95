"""Write tokenizer.json and tokenizer_config.json of a tokenizer.model, a tokenizer.json, a GGUF file or a folder."""

from pathlib import Path

from hexport.provenance import write_json, write_text
from hexport.script_command import file_option, job_command
from hexport.script_job import ScriptJob
from hexport.tokenizers.files import tokenizer_files
from hexport.tokenizers.source import read_tokenizer


@job_command("JSON: {}")
@file_option("--source")
def main(job: ScriptJob, source: Path, output: Path) -> None:
    with job.progress.stage("tokenizer"):
        job.reads({file.name: file for file in tokenizer_files(source)})
        text, config = read_tokenizer(source)
        write_text(output, text)
        write_json(output.with_name("tokenizer_config.json"), config)
    artifacts = output, output.with_name("tokenizer_config.json")
    job.write_manifest(*artifacts)


if __name__ == "__main__":
    main()
