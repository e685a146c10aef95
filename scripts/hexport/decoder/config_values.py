"""This module checks values of a config.json as they are read. A default stands for an absent key, never for null."""

import math

from hexport.errors import HexportError

LARGEST_INTEGER = 2**31 - 1  # no size of a model and no position is larger
LARGEST_NUMBER = 3.0e38  # about the largest float32


def integer(config: dict, key: str, where: str, default: int | None = None, minimum: int = 1) -> int:
    """Return an integer from `minimum` to LARGEST_INTEGER.

    Raises HexportError for any other value, and for an absent key without a default.
    """
    value = config.get(key, default)
    if type(value) is not int or value < minimum:
        kind = "a positive integer" if minimum == 1 else f"an integer of at least {minimum}"
        raise HexportError(f"{where}: {key} must be {kind}, {_found(config, key)}")
    if value > LARGEST_INTEGER:
        raise HexportError(f"{where}: {key} must be at most {LARGEST_INTEGER}, {_found(config, key)}")
    return value


def positive_number(config: dict, key: str, where: str, default: float | None = None) -> float:
    """Return a positive number of at most LARGEST_NUMBER.

    Raises HexportError for any other value, and for an absent key without a default.
    """
    value = config.get(key, default)
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise HexportError(f"{where}: {key} must be a positive number, {_found(config, key)}")
    if value > LARGEST_NUMBER:
        raise HexportError(f"{where}: {key} must be at most {LARGEST_NUMBER}, {_found(config, key)}")
    return float(value)


def boolean(config: dict, key: str, where: str, default: bool = False) -> bool:
    """Return true or false; null is false, as it is to transformers. Raises HexportError for any other value."""
    value = config.get(key, default)
    if type(value) not in (bool, type(None)):
        raise HexportError(f"{where}: {key} must be true or false, {_found(config, key)}")
    return bool(value)


def _found(config: dict, key: str) -> str:
    if key not in config:
        return "it is missing"
    value = config[key]
    if type(value) is int and value.bit_length() > 300:  # more digits than are of use, or than Python writes
        return f"found a number of {value.bit_length()} bits"
    return f"found {value!r}"
