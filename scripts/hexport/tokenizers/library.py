"""What the tokenizers library raises: plain exceptions, and panics of the Rust code behind it."""

import contextlib
import os
import sys
from collections.abc import Iterator

from hexport.errors import HexportError


@contextlib.contextmanager
def one_line_library_errors(what: str) -> Iterator[None]:
    """Turn any failure of the library into a HexportError that begins with `what`."""
    try:
        yield
    except HexportError:
        raise
    except BaseException as error:
        # Panics derive from BaseException alone, from a class that cannot be imported.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise HexportError(f"{what}: {reason}") from error


@contextlib.contextmanager
def panics_unsaid() -> Iterator[None]:
    """Keep from the terminal what Rust writes of a panic before it is raised here.

    The process's standard error is away meanwhile: not for code that other threads run beside.
    """
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
