"""This module handles what the tokenizers library raises: plain exceptions, and panics of the Rust code behind it."""

import contextlib
import os
import sys
from collections.abc import Iterator

from hexport.errors import HexportError, one_line


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
        raise HexportError(f"{what}: {one_line(error)}") from error


@contextlib.contextmanager
def panics_unsaid() -> Iterator[None]:
    """Hide from the terminal the text that Rust writes about a panic before Python raises it.

    The process's standard error is redirected meanwhile, so this must not be used while other threads run.
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
