"""Write summary.csv: figures of the float model, the fake-quantised one and the programs, side by side."""

from pathlib import Path

import click

from hexport.errors import one_line_errors
from hexport.provenance import write_text
from hexport.report.summary import as_csv, input_files, read_evaluations, summary_rows
from hexport.script_job import ScriptJob
from hexport.settings_option import settings_option

SETTINGS = (
    'JSON: {"artifacts", "evaluations": [[model, recipe, context length, target, device, mode, phases besides device], '
    "…]}"
)


@click.command(help=__doc__)
@settings_option(help=SETTINGS)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="…/summary.csv")
@click.option("--log", type=click.Path(path_type=Path))
@one_line_errors
def main(settings: dict, output: Path, log: Path | None) -> None:
    job = ScriptJob(__file__, settings, log)
    with job.progress.stage("summary"):
        evaluations = settings["artifacts"], settings["evaluations"]
        job.reads(input_files(*evaluations))
        write_text(output, as_csv(summary_rows(read_evaluations(*evaluations))))
    job.write_manifest(output)


if __name__ == "__main__":
    main()
