"""This module checks a file against the SHA-256 that a user gives for it."""

from pathlib import Path

from hexport.errors import HexportError
from hexport.file_hashes import sha256


def check_sha256(path: Path, expected: str | None, name: str) -> None:
    """Check that the file has the expected hex SHA-256, or do nothing where that is None.

    Raises HexportError, which begins with `name`, where it differs.
    """
    if expected is not None and (found := sha256(path)) != expected.lower():
        raise HexportError(f"{name}: sha256 differs: expected {expected}, found {found}")
