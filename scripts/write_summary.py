"""Write summary.csv: figures of the float model, the fake-quantised one and the programs, side by side."""

from pathlib import Path

from hexport.provenance import write_text
from hexport.report.summary import as_csv, input_files, read_evaluations, summary_rows
from hexport.script_command import job_command
from hexport.script_job import ScriptJob

SETTINGS = (
    'JSON: {"artifacts", "evaluations": [[model, recipe, context length, target, device, mode, phases besides device], '
    "…]}"
)


@job_command(SETTINGS)
def main(job: ScriptJob, output: Path) -> None:
    with job.progress.stage("summary"):
        evaluations = job.settings["artifacts"], job.settings["evaluations"]
        job.reads(input_files(*evaluations))
        write_text(output, as_csv(summary_rows(read_evaluations(*evaluations))))
    job.write_manifest(output)


if __name__ == "__main__":
    main()
