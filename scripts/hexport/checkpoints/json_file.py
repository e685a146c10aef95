"""The JSON files of published checkpoints and tokenizers."""

import json
from pathlib import Path

from hexport.errors import HexportError


def read_json(path: Path) -> dict:
    """Raises HexportError where the file is missing or is not a JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise HexportError(f"{path} is missing") from error
    except ValueError as error:
        raise HexportError(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise HexportError(f"{path}: expected a JSON object")
    return value
