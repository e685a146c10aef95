"""Write gates.json if a quantised model, or a ready program, passes the gates of the config; else fail with the
figures."""

from pathlib import Path

import click

from hexport.errors import one_line_errors
from hexport.evaluation.gates import check_gates
from hexport.evaluation.result_files import OF_GATES, read_evaluation
from hexport.provenance import write_json
from hexport.script_job import ScriptJob
from hexport.settings_option import settings_option


@click.command(help=__doc__)
@settings_option(help='JSON: {"model"} and the gates by their keys')
@click.option("--figures", type=click.Path(path_type=Path), required=True, help="qdq.json, or evaluation.json")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="…/evaluation/gates.json")
@click.option("--log", type=click.Path(path_type=Path))
@one_line_errors
def main(settings: dict, figures: Path, output: Path, log: Path | None) -> None:
    job = ScriptJob(__file__, settings, log)
    job.reads({figures.name: figures})
    check_gates(read_evaluation(figures, OF_GATES), settings)
    write_json(output, {"passed": True})  # the same for all that pass: other figures or gates rebuild nothing after it
    job.write_manifest(output)


if __name__ == "__main__":
    main()
