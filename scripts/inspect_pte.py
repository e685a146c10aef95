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
from hexport.programs.inspection_process import report_of

WIDTH = 160  # of tables that do not go to a terminal


@click.command(help=__doc__)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_document", is_flag=True, help="one JSON document on stdout, with every input and output")
@one_line_errors
def main(file: Path, as_document: bool) -> None:
    terminal = sys.stdout.isatty()
    with _silent_libraries():
        report, found = report_of(file, as_document, None if terminal else WIDTH, terminal)
    print(json.dumps(report, indent=2) if as_document else report, end="\n" if as_document else "")
    for fault in found:
        print(f"error: {file}: {fault}", file=sys.stderr)
    sys.exit(1 if found else 0)


@contextlib.contextmanager
def _silent_libraries() -> Iterator[None]:
    """Discard what is printed. torch and QNN print while they load, some of it from native code and to stdout, where
    the report goes."""
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
