"""The commands that cases call: the workflow's scripts, and what the Snakefile does before it plans any job."""

import importlib
import json
import os
import sys
from pathlib import Path

import click

ROOT = Path(os.environ.get("HEXPORT_ROOT", Path(__file__).parents[2])).resolve()
for place in ("scripts", "tests", "tests/unit", "tests/workflow"):
    sys.path.insert(0, str(ROOT / place))

from case import Call  # noqa: E402

from hexport.config import evaluations, matrix  # noqa: E402
from hexport.config.checks import check_config  # noqa: E402
from hexport.config.documents import read_yaml  # noqa: E402
from hexport.config.settings import parse_config  # noqa: E402
from hexport.errors import HexportError  # noqa: E402


def call(made: Call) -> int:
    """Exit code of the command, called as a shell would call it."""
    words = list(made.words)
    if made.settings is not None:
        Path("settings").write_text(json.dumps(made.settings))
        os.dup2(os.open("settings", os.O_RDONLY), 0)
        words = ["--settings", "-", *words]
    command = plan if made.command == "plan" else importlib.import_module(made.command).main
    try:
        command.main(args=words, prog_name=f"{made.command}.py")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    return 0


@click.command()
@click.argument("file")
def plan(file: str) -> None:
    """Read config.yaml and devices.yaml, and name the files to be built, as rules/common.smk and the Snakefile do."""
    try:
        build = parse_config(read_yaml(Path(file)), file)
        check_config(build, file)
        for targets in (matrix.programs, matrix.runs, evaluations.evaluations):
            print(*targets(build), sep="\n")
    except HexportError as error:
        sys.exit("\n".join(f"error: {line}" for line in error.lines))
