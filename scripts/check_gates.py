"""Write gates.json if a quantised model, or a ready program, passes the gates of the config; else fail with the
figures."""

from pathlib import Path

from hexport.evaluation.gates import check_gates
from hexport.evaluation.result_files import OF_GATES, read_evaluation
from hexport.provenance import write_json
from hexport.script_command import file_option, job_command
from hexport.script_job import ScriptJob


@job_command('JSON: {"model"} and the gates by their keys')
@file_option("--figures", help="qdq.json, or evaluation.json")
def main(job: ScriptJob, figures: Path, output: Path) -> None:
    job.reads({figures.name: figures})
    check_gates(read_evaluation(figures, OF_GATES), job.settings)
    write_json(output, {"passed": True})  # the same for all that pass: other figures or gates rebuild nothing after it
    job.write_manifest(output)


if __name__ == "__main__":
    main()
