"""Print what a .pte holds and where it runs, and check it against the ABI of the QNN llama runner.

The exit code is 0 if it obeys. What breaks the ABI is named on stderr, one line each.
"""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from hexport.errors import one_line_errors

WIDTH = 160  # of tables that do not go to a terminal


@click.command(help=__doc__)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_document", is_flag=True, help="one JSON document on stdout, with every input and output")
@one_line_errors
def main(file: Path, as_document: bool) -> None:
    with _silent_libraries():
        from rich.console import Console

        from hexport.lowering.conformance import faults
        from hexport.lowering.inspection import inspect_program
        from hexport.lowering.program_report import as_json, as_tables

        program = inspect_program(file)
        found = faults(program)
        report = as_json(program, found) if as_document else as_tables(program, found)
    if as_document:
        print(json.dumps(report, indent=2))
    else:
        console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False, markup=False)
        for table in report:
            console.print(table, "")
    for fault in found:
        print(f"error: {file}: {fault}", file=sys.stderr)
    sys.exit(1 if found else 0)


@contextlib.contextmanager
def _silent_libraries() -> Iterator[None]:
    """torch and QNN print while they load, some of it from native code and to stdout, where the report goes."""
    kept = [os.dup(descriptor) for descriptor in (1, 2)]
    null = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(null, descriptor)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, descriptor)


if __name__ == "__main__":
    main()
