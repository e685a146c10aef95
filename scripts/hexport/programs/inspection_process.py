"""This module inspects a program in a process of its own: QNN and executorch read what anyone may have written."""

import functools
from io import StringIO
from pathlib import Path

from hexport.child import answer
from hexport.programs.facts import ProgramFacts
from hexport.progress import Progress

ADVICE = "it is damaged, or of another QNN; copy it again, or export it again"
TIMEOUT_S = 600.0


def facts_of(path: Path) -> ProgramFacts:
    """Return what `inspection.inspect_program` reads of a program. Each state of the file is read once.

    Raises HexportError as that function does, and where reading the file crashes or does not end.
    """
    stat = path.stat()
    return _facts_of(path, stat.st_mtime_ns, stat.st_size, stat.st_ino)


@functools.lru_cache(maxsize=64)
def _facts_of(path: Path, *_state: int) -> ProgramFacts:
    return ProgramFacts.of_json(_inspected(_facts, path))


def report_of(path: Path, as_document: bool, width: int | None, colours: bool) -> tuple[object, list[str]]:
    """Return what scripts/inspect_pte.py prints of a program, a JSON document or a text, and the faults of its ABI.

    Raises HexportError as `facts_of` does.
    """
    report, faults = _inspected(_report, path, as_document, width, colours)
    return report, faults


def _inspected(function, path: Path, *arguments: object) -> object:
    what = f"{path}: reading it"
    return answer(function, path, *arguments, progress=Progress(), what=what, advice=ADVICE, timeout=TIMEOUT_S)


def _facts(_: Progress, path: Path) -> dict:
    from hexport.programs.inspection import inspect_program

    return inspect_program(path).as_json()


def _report(_: Progress, path: Path, as_document: bool, width: int | None, colours: bool) -> tuple[object, list[str]]:
    from rich.console import Console

    from hexport.programs.conformance import faults
    from hexport.programs.inspection import inspect_program
    from hexport.programs.report import as_tables, program_json

    program = inspect_program(path)
    found = faults(program)
    if as_document:
        return program_json(program, found), found
    text = StringIO()
    console = Console(file=text, width=width, force_terminal=colours, highlight=False, markup=False)
    for table in as_tables(program, found):
        console.print(table, "")
    return text.getvalue(), found
