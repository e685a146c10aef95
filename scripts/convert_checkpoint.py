"""Write the canonical checkpoint, model.safetensors and config.json, of a published one in any format."""

from pathlib import Path

from hexport.checkpoints.canonical import check_tensors, write_safetensors
from hexport.checkpoints.files import find_checkpoint
from hexport.checkpoints.source import check_weights, read_checkpoint
from hexport.provenance import write_json
from hexport.script_command import file_option, job_command
from hexport.script_job import ScriptJob


@job_command('JSON: {"sha256": hex|null, "params": path|null}')
@file_option("--source")
def main(job: ScriptJob, source: Path, output: Path) -> None:
    beside, params = output.with_name("config.json"), job.settings["params"]
    published = find_checkpoint(source, None if params is None else Path(params))
    job.reads({file.name: file for file in published.files})
    with job.made_once(output, beside) as there:
        if there:
            return
        with job.progress.stage("read"):
            check_weights(published, job.settings["sha256"])
            config, tensors = read_checkpoint(published)
            tensors = check_tensors(tensors, config, str(source))
        with job.progress.stage("write"):
            write_safetensors(output, tensors, str(source))
            write_json(beside, config)
        job.write_manifest(output, beside)


if __name__ == "__main__":
    main()
