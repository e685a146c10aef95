"""This module reads JSON from outside: configs, indexes, chats, headers. It is one reader, with limits, for
all of it."""

import json
import math
from collections import Counter
from pathlib import Path

from hexport.errors import HexportError
from hexport.regular_file import read_bytes

MAX_BYTES = 16 << 20  # the largest published index has 9 MB; Python's objects take up to 25 times as much
MAX_DEPTH = 64  # what is read is written again, compared and shown by code that calls itself at each level


def read_json(path: Path) -> dict:
    """Return the object in a JSON file. Raises HexportError where the file is missing, and as `parse_json` does."""
    if not path.exists():
        raise HexportError(f"{path} is missing")
    value = parse_json(read_bytes(path, MAX_BYTES), str(path))
    if not isinstance(value, dict):
        raise HexportError(f"{path}: expected a JSON object")
    return value


def parse_json(text: bytes, where: str) -> object:
    """Return the value of a JSON text in UTF-8, read strictly (RFC 8259).

    Raises HexportError for what is not JSON, NaN and Infinity among it; for an object with one key twice; for a number
    beyond float64; for half of a surrogate pair, which is no text; and for more than MAX_DEPTH levels.
    """
    try:
        value = json.loads(
            text.decode(),
            parse_constant=_refuse_constant,
            parse_float=_float,
            parse_int=_int,
            object_pairs_hook=_object,
        )
        if _is_too_deep(value):
            raise RecursionError
    except RecursionError:
        raise HexportError(f"{where}: JSON with more than {MAX_DEPTH} levels") from None
    except UnicodeDecodeError as error:
        raise HexportError(f"{where}: not JSON: byte {error.start} is not UTF-8") from None
    except ValueError as error:
        raise HexportError(f"{where}: not JSON: {error}") from None
    if b"\\u" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            half = "half of a surrogate pair (\\ud800 to \\udfff), which is no character"
            raise HexportError(f"{where}: not JSON: {half}") from None
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _float(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError(f"the number {text[:20]} is beyond float64")
    return value


def _int(text: str) -> int:
    if len(text) > 300:
        _float(text)
    return int(text)


def _object(pairs: list[tuple[str, object]]) -> dict:
    value = dict(pairs)
    if len(value) < len(pairs):
        ((twice, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {twice[:80]!r} is there twice")
    return value


def _is_too_deep(value: object) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        children = (
            node.values() if isinstance(node, dict) else node for node in level if isinstance(node, dict | list)
        )
        level = [child for of_one in children for child in of_one if isinstance(child, dict | list)]
        if not level:
            return False
    return True
