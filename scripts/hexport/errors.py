"""Errors a user can act on: one line that says what is wrong, where, and what to do."""

import functools
import sys
from collections.abc import Callable


class HexportError(Exception):
    """A fault in what the user gave us. Its text is one line: what, where, what to do."""


def one_line_errors(main: Callable) -> Callable:
    """Decorate a script's entry point: a `HexportError` becomes one line on stderr and exit code 1."""

    @functools.wraps(main)
    def wrapper(*args, **kwargs):
        try:
            return main(*args, **kwargs)
        except HexportError as error:
            print(f"error: {error}", file=sys.stderr)
        except OSError as error:
            where = f": {error.filename}" if error.filename else ""
            print(f"error: {error.strerror or error}{where}", file=sys.stderr)
        sys.exit(1)

    return wrapper
