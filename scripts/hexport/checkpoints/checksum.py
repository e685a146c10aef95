"""The SHA-256 that a user gives for a file."""

from pathlib import Path

from hexport.errors import HexportError
from hexport.file_hashes import sha256


def check_sha256(path: Path, expected: str | None, name: str) -> None:
    """Raises HexportError where the file's SHA-256 is not the expected one; None expects nothing."""
    if expected is not None and (found := sha256(path)) != expected.lower():
        raise HexportError(f"{name}: sha256 differs: expected {expected}, found {found}")
