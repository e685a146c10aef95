"""Write index.html: a page of all evaluations and runs."""

from pathlib import Path

import click

from hexport.build.artifacts import Place, ProgramKey, result_file
from hexport.errors import one_line_errors
from hexport.evaluation.result_files import read_answers
from hexport.provenance import write_text
from hexport.report.changes import changes_since
from hexport.report.page import Report, figures_of, report_page
from hexport.report.programs import built_programs
from hexport.report.summary import input_files, read_evaluations
from hexport.script_job import ScriptJob
from hexport.settings_option import settings_option

SETTINGS = (
    'JSON: {"artifacts", "programs": [[model, recipe, context length, target, mode], …], "evaluations": [[*place, '
    'phases besides device], …], "runs": [place, …]}; a place is model, recipe, context length, target, device, mode'
)


@click.command(help=__doc__)
@settings_option(help=SETTINGS)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="…/index.html")
@click.option("--log", type=click.Path(path_type=Path))
@one_line_errors
def main(settings: dict, output: Path, log: Path | None) -> None:
    job = ScriptJob(__file__, settings, log)
    with job.progress.stage("report"):
        evaluations = settings["artifacts"], settings["evaluations"]
        runs = {result_file(settings["artifacts"], place): place for place in (Place(*run) for run in settings["runs"])}
        job.reads(input_files(*evaluations) | {run: Path(run) for run in runs})
        programs = built_programs(settings["artifacts"], (ProgramKey(*program) for program in settings["programs"]))
        results = [(place, read_answers(Path(run))) for run, place in runs.items()]
        report = Report(settings["artifacts"], programs, read_evaluations(*evaluations), results)
        changes = changes_since(output.with_name("figures.json"), figures_of(report))
        write_text(output, report_page(report, changes, output.parent))
    job.write_manifest(output)


if __name__ == "__main__":
    main()
