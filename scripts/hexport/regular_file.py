"""This module checks files that a user or a download names, before they are opened: what is no regular file could block
for ever."""

import stat
from pathlib import Path

from hexport.errors import HexportError


def regular_file(path: Path) -> Path:
    """Return `path` if it is a regular file, or a link to one.

    Raises HexportError for a path that leads nowhere, a folder, and for pipes, sockets and devices: whoever opens one
    of these may wait without end, and never reach the end of it.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise HexportError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # a name that is too long or holds a NUL, a folder closed to the user
        reason = error.strerror if isinstance(error, OSError) else error
        raise HexportError(f"{path}: cannot be read: {reason}") from None
    if stat.S_ISDIR(mode):
        raise HexportError(f"{path}: is a folder; name a file")
    if not stat.S_ISREG(mode):
        raise HexportError(f"{path}: is a pipe, a socket or a device; copy what it gives into a file, and name that")
    return path


def read_bytes(path: Path, limit: int) -> bytes:
    """Return the content of a regular file. Raises HexportError as `regular_file` does, and for more than `limit`
    bytes."""
    size = regular_file(path).stat().st_size
    if size > limit:
        raise HexportError(
            f"{path}: {size / 2**20:.1f} MB, more than the limit of {limit / 2**20:.0f} MB for such a file"
        )
    return path.read_bytes()
