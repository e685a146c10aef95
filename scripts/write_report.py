"""Write index.html: a page of all evaluations and runs."""

from pathlib import Path

from hexport.build.artifacts import Place, ProgramKey, result_file
from hexport.evaluation.result_files import read_answers
from hexport.provenance import write_text
from hexport.report.changes import changes_since
from hexport.report.page import Report, figures_of, report_page
from hexport.report.programs import built_programs
from hexport.report.summary import input_files, read_evaluations
from hexport.script_command import job_command
from hexport.script_job import ScriptJob

SETTINGS = (
    'JSON: {"artifacts", "programs": [[model, recipe, context length, target, mode], …], "evaluations": [[*place, '
    'phases besides device], …], "runs": [place, …]}; a place is model, recipe, context length, target, device, mode'
)


@job_command(SETTINGS)
def main(job: ScriptJob, output: Path) -> None:
    with job.progress.stage("report"):
        artifacts, settings = job.settings["artifacts"], job.settings
        evaluations = artifacts, settings["evaluations"]
        runs = {result_file(artifacts, place): place for place in (Place(*run) for run in settings["runs"])}
        job.reads(input_files(*evaluations) | {run: Path(run) for run in runs})
        programs = built_programs(artifacts, (ProgramKey(*program) for program in settings["programs"]))
        results = [(place, read_answers(Path(run))) for run, place in runs.items()]
        report = Report(artifacts, programs, read_evaluations(*evaluations), results)
        changes = changes_since(output.with_name("figures.json"), figures_of(report))
        write_text(output, report_page(report, changes, output.parent))
    job.write_manifest(output)


if __name__ == "__main__":
    main()
