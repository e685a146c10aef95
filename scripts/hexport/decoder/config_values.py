"""Numbers of a config.json, checked as they are read. A default stands for an absent key, never for null."""

import math

from hexport.errors import HexportError


def integer(config: dict, key: str, where: str, default: int | None = None, minimum: int = 1) -> int:
    """Raises HexportError for a value that is no integer or below the minimum; without a default, for an absent key."""
    value = config.get(key, default)
    if type(value) is not int or value < minimum:
        kind = "a positive integer" if minimum == 1 else f"an integer of at least {minimum}"
        raise HexportError(f"{where}: {key} must be {kind}, {_found(config, key)}")
    return value


def positive_number(config: dict, key: str, where: str, default: float | None = None) -> float:
    """Raises HexportError for a value that is no finite positive number; without a default, for an absent key."""
    value = config.get(key, default)
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise HexportError(f"{where}: {key} must be a positive number, {_found(config, key)}")
    return float(value)


def _found(config: dict, key: str) -> str:
    return f"found {config[key]!r}" if key in config else "it is missing"
