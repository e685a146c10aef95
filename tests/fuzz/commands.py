"""The commands that cases call: the workflow's scripts, and what the Snakefile does before it plans any job."""

import importlib
import json
import os
import sys
from pathlib import Path

import click
from case import Call

from hexport.build import evaluations, matrix
from hexport.config.checks import check_config
from hexport.config.reading import read_config
from hexport.config.settings import parse_config
from hexport.errors import one_line_errors

SCRIPTS = (
    "calibrate", "check_gates", "compile_shard", "convert_checkpoint", "copy_tokenizer_model", "encode_calibration",
    "extract_tokenizer", "fetch", "inspect_pte", "run_program", "write_report", "write_summary", "write_tokenizer_bin",
)  # fmt: skip
# Imported by scripts while they run.
LATER = ("hexport.checkpoints.fetch", "hexport.tokenizers.chat_child")
for module in (*SCRIPTS, *LATER):
    importlib.import_module(module)


# Imported by scripts that run torch or executorch.
HEAVY = (
    "hexport.decoder.weights", "hexport.devices.answers", "hexport.devices.emulator", "hexport.programs.conformance",
    "hexport.programs.inspection", "hexport.lowering.lower", "hexport.lowering.template_file",
    "hexport.programs.report", "hexport.quantization.calibration", "hexport.quantization.quant_attrs_checks",
    "hexport.quantization.tokens_file", "hexport.quantization.weight_search", "hexport.runtime.program", "rich.console",
)  # fmt: skip


def import_all() -> None:
    """Import what takes seconds, before any case is forked."""
    from hexport.qnn_sdk import use_qnn_sdk

    use_qnn_sdk()
    for module in HEAVY:
        importlib.import_module(module)


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
@one_line_errors
def plan(file: str) -> None:
    """Read a config and the devices.yaml that it names, and name the files to be built, as the Snakefile does."""
    document, source = read_config({"file": file}, [])
    build = parse_config(document, source)
    check_config(build, source)
    for targets in (matrix.programs, matrix.runs, evaluations.evaluations):
        print(*targets(build), sep="\n")
