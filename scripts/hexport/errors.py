"""This module defines errors that a user can act on: one line that says what is wrong, where, and what to do. The trace
goes to the log."""

import contextlib
import errno
import functools
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import click

from hexport.call_stack import with_room
from hexport.job_process import end_with_snakemake

LONGEST = 1500  # characters that a line has at most


class HexportError(Exception):
    """A HexportError is a fault in what the user gave us. Each of its lines is one fault: what, where, what to do.

    A line may quote data: what is not printable in it is escaped, so that it stays one line on any terminal.
    """

    @property
    def lines(self) -> list[str]:
        """Return the lines, each printable and not too long."""
        return [printable(str(line)) for line in self.args]

    def __str__(self) -> str:
        return "\n".join(self.lines)


def printable(text: str) -> str:
    """Return `text` with control characters, line breaks and lone surrogates escaped, and without its middle where it
    is very long."""
    shown = _cut(text)
    return _cut("".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in shown))


def one_line(error: BaseException) -> str:
    """Return what an error of a library says, in one line; its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"


def one_line_errors(main: Callable) -> Callable:
    """Decorate a script's entry point: what goes wrong becomes one line a fault on stderr, and exit code 1.

    The trace is appended to the file of the option `log`, or where the script has none, for a bug of ours, to a file
    of its own.
    """

    @functools.wraps(main)
    def wrapper(*args, **kwargs):
        end_with_snakemake()
        try:
            return with_room(lambda: main(*args, **kwargs))
        except (SystemExit, KeyboardInterrupt, click.exceptions.Exit, click.ClickException):
            raise
        except BrokenPipeError:  # who reads the output has enough of it
            sys.stderr = None
        except BaseException as error:  # a panic of a Rust library is no Exception
            for line in report(error, kwargs.get("log")):
                print(f"error: {line}", file=sys.stderr)
        sys.exit(1)

    return wrapper


def report(error: BaseException, log: Path | None) -> list[str]:
    """Append the trace of an error to the log; return the lines that tell the user of it."""
    if log is not None:
        _append_trace(error, log)
    match error:
        case HexportError():
            return error.lines
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return [_disk_full(error)]
        case OSError():
            where = f": {error.filename}" if error.filename else ""
            return [printable(f"{error.strerror or error}{where}")]
        case MemoryError():
            return ["out of memory; close other programs, or use a machine with more of it"]
    if log is None:
        with tempfile.NamedTemporaryFile("w", prefix="hexport-", suffix=".log", delete=False) as file:
            log = Path(file.name)
        _append_trace(error, log)
    said = printable(f"{type(error).__name__}: {error}"[:300])
    return [f"a bug of hexport, please report it with its log {log}: {said}"]


def _append_trace(error: BaseException, log: Path) -> None:
    """Append the trace of an error to a log. A log that cannot be written, on a full disk for one, must not hide the
    error itself."""
    with contextlib.suppress(OSError):
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "a", encoding="utf-8", errors="backslashreplace") as file:
            traceback.print_exception(error, file=file)


def _disk_full(error: OSError) -> str:
    if error.filename is None:
        return "no space left on the device; free some, or set `artifacts` to a folder on a larger disk"
    folder = next(path for path in Path(error.filename).absolute().parents if path.is_dir())
    free = shutil.disk_usage(folder).free / 2**20
    return printable(
        f"{error.filename}: no space left for it: {free:.0f} MB are free in {folder}; free some, or set `artifacts` "
        "to a folder on a larger disk"
    )
