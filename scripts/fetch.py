"""Download what a URI names: a file, or the files of a repository."""

from pathlib import Path

from hexport.script_command import job_command
from hexport.script_job import ScriptJob

SETTINGS = 'JSON: {"uri": …, "sha256": hex or null}, or for a repository {"uri": …, "weights": true or false}'


@job_command(SETTINGS)
def main(job: ScriptJob, output: Path) -> None:
    from hexport.checkpoints.fetch import fetch

    with job.progress.stage("fetch"):
        sha256, weights = job.settings.get("sha256"), job.settings.get("weights", True)
        facts = fetch(job.settings["uri"], sha256, output, weights=weights, say=job.progress.say)
    job.write_manifest(output, **facts)


if __name__ == "__main__":
    main()
