"""This module reads the calibration set that comes with hexport, which serves models that name no calibration data.

The set holds prose, stories and news in fifteen languages, code, mathematics, tables, logs and chats, all written for
it. Each `.txt` file of `calibration_texts` is a kind of text; between two texts of a file lies a line of `%%%`.
"""

import hashlib
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).with_name("calibration_texts")
CHATS = FOLDER / "chats.json"
BETWEEN = "\n%%%\n"


def set_texts() -> list[list[str]]:
    """Return a list of the texts of each kind, in the order of the files' names. Chats are not among them."""
    return [path.read_text(encoding="utf-8").rstrip("\n").split(BETWEEN) for path in _text_files()]


@cache
def set_digest() -> str:
    """Return the SHA-256 of the set's files, so that what is calibrated on the set is stale after an edit of them."""
    digest = hashlib.sha256()
    for path in (*_text_files(), CHATS):
        digest.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _text_files() -> list[Path]:
    return sorted(FOLDER.glob("*.txt"))
