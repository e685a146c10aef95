"""This module reads rotary parameters from a config.json.

It knows the spelling of transformers 4 (`rope_theta`, `rope_scaling`) and that of transformers 5 (`rope_parameters`).
"""

import math
from dataclasses import dataclass

from hexport.decoder.config_values import integer, positive_number
from hexport.decoder.families import FULL, SLIDING, Family
from hexport.errors import HexportError

ROPE_KEYS = {
    "rope_type",
    "type",
    "rope_theta",
    "partial_rotary_factor",
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
    "short_factor",
    "long_factor",
    "attention_factor",
}


@dataclass(frozen=True)
class Linear:
    """Linear scaling divides every frequency by a factor (position interpolation, arXiv 2306.15595)."""

    factor: float


@dataclass(frozen=True)
class Llama3:
    """Llama 3.1's scaling divides long wavelengths by a factor, keeps short ones, and interpolates between."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context_len: int


@dataclass(frozen=True)
class LongRope:
    """LongRoPE (arXiv 2402.13753) has a divisor for each frequency, and a factor on cosines and sines.

    transformers takes the long divisors once a call reaches beyond the original context, and so mixes both in one
    cache. A static graph must choose once: it takes them where its own context length is beyond the original one.
    """

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    original_context_len: int
    attention_factor: float


@dataclass(frozen=True)
class Rope:
    """A rope is rotary embeddings of the first `dims` dimensions of a head, with base `theta`."""

    theta: float
    dims: int
    scaling: Linear | Llama3 | LongRope | None = None

    @property
    def attention_factor(self) -> float:
        """Return the amplitude of the cosines and sines."""
        return self.scaling.attention_factor if isinstance(self.scaling, LongRope) else 1.0


def read_ropes(config: dict, family: Family, head_dim: int, where: str) -> dict[str, Rope]:
    """Return the rotary embeddings by layer type, FULL and SLIDING.

    Raises HexportError for a kind of scaling that is not computed, and for a missing or misfitting parameter.
    """
    scaling, parameters = (_dictionary(config, key, where) for key in ("rope_scaling", "rope_parameters"))
    theta = positive_number(config, "rope_theta", where, family.rope_theta)
    if not family.layer_ropes:
        rope = _rope(config, scaling or parameters, theta, family, head_dim, where)
        return {FULL: rope, SLIDING: rope}
    if unknown := parameters.keys() - {FULL, SLIDING}:
        raise HexportError(
            f"{where}: rope_parameters: {min(unknown)!r} is not supported for model_type {config['model_type']!r}, "
            f"whose rope_parameters are by layer type: {FULL}, {SLIDING}"
        )
    full, sliding = (_dictionary(parameters, key, where) for key in (FULL, SLIDING))
    local_theta = positive_number(config, "rope_local_base_freq", where, 10000.0)
    return {
        # rope_scaling is transformers 4's key. That version scaled the full layers alone.
        FULL: _rope(config, full | scaling, theta, family, head_dim, where),
        SLIDING: _rope(config, sliding, local_theta, family, head_dim, where),
    }


def _dictionary(config: dict, key: str, where: str) -> dict:
    value = config.get(key) or {}
    if not isinstance(value, dict):
        raise HexportError(f"{where}: {key}: expected keys with values, found {value!r}")
    return value


def _rope(config: dict, parameters: dict, theta: float, family: Family, head_dim: int, where: str) -> Rope:
    for key in parameters.keys() - ROPE_KEYS:
        if parameters[key]:
            raise HexportError(f"{where}: rotary parameter {key}: {parameters[key]!r} is not supported")
    key = "partial_rotary_factor"
    partial = positive_number({key: parameters.get(key) or config.get(key) or 1.0}, key, where)
    if partial > 1 or (partial != 1 and not family.partial_rotary):
        raise HexportError(f"{where}: {key}: {partial} is not supported for model_type {config['model_type']!r}")
    dims = int(head_dim * partial)
    if dims % 2 or dims < 2:
        raise HexportError(
            f"{where}: {dims} dimensions of a head are rotated (head_dim {head_dim}, {key} {partial}); "
            "rotary embeddings need an even number"
        )
    scaling = _scaling(config, parameters, family, dims, where)
    return Rope(positive_number(parameters, "rope_theta", where, theta), dims, scaling)


def _scaling(
    config: dict, parameters: dict, family: Family, dims: int, where: str
) -> Linear | Llama3 | LongRope | None:
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if family.partial_rotary and kind in ("su", "yarn"):
        kind = "longrope"  # as old Phi-3 configs call it
    in_scaling = f"{where}: rope scaling {kind!r}"
    match kind:
        case "default":
            return None
        case "linear":
            return Linear(positive_number(parameters, "factor", in_scaling))
        case "llama3":
            keys = ("factor", "low_freq_factor", "high_freq_factor")
            factor, low, high = (positive_number(parameters, key, in_scaling) for key in keys)
            if low >= high:
                raise HexportError(f"{in_scaling}: low_freq_factor {low} must be below high_freq_factor {high}")
            return Llama3(factor, low, high, _original_context_len(config, parameters, family, where))
        case "longrope":
            short, long = (_divisors(parameters, key, dims // 2, in_scaling) for key in ("short_factor", "long_factor"))
            original = _original_context_len(config, parameters, family, where)
            return LongRope(short, long, original, _attention_factor(config, parameters, original, in_scaling))
    raise HexportError(f"{in_scaling} is not supported; supported: default, linear, llama3, longrope")


def _divisors(parameters: dict, key: str, n: int, where: str) -> tuple[float, ...]:
    values = parameters.get(key)
    if not isinstance(values, list) or len(values) != n:
        found = f"{len(values)} values" if isinstance(values, list) else repr(values)
        raise HexportError(f"{where}: {key} must be a list of {n} numbers, found {found}")
    return tuple(positive_number({f"{key}[{i}]": value}, f"{key}[{i}]", where) for i, value in enumerate(values))


def _original_context_len(config: dict, parameters: dict, family: Family, where: str) -> int:
    """Return the length of the context that the model was first trained on.

    Phi-3 configs have it outside the rotary parameters, and transformers looks nowhere else in this family.
    """
    key = "original_max_position_embeddings"
    if family.original_context_len is not None:
        return integer(config, key, where, family.original_context_len, minimum=2)
    if parameters.get(key) is not None:
        return integer(parameters, key, where, minimum=2)
    return integer(config, "max_position_embeddings", where, minimum=2)


def _attention_factor(config: dict, parameters: dict, original: int, where: str) -> float:
    """Return the given factor, or else the one that the paper derives from how far the context is extended."""
    if parameters.get("attention_factor") is not None:
        return positive_number(parameters, "attention_factor", where)
    if parameters.get("factor") is not None:
        factor = positive_number(parameters, "factor", where)
    else:
        factor = integer(config, "max_position_embeddings", where) / original
    return 1.0 if factor <= 1.0 else math.sqrt(1 + math.log(factor) / math.log(original))
