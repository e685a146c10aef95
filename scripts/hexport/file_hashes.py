"""This module takes the SHA-256 of files. A large file that stays as it is is read once, by all processes of this user
together."""

import hashlib
from pathlib import Path
from typing import BinaryIO

from hexport.stat_cache import StatCache

_cache = StatCache("sha256", least_bytes=65_536)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as hex digits. Raises HexportError for what is no regular file,
    and OSError."""
    return _cache.value(path, _digest)


def _digest(file: BinaryIO) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()
