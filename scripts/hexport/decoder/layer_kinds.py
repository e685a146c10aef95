"""This module reads from a config.json what each layer attends to, and which rotary embeddings it has."""

from dataclasses import dataclass

from hexport.decoder.config_values import boolean, integer
from hexport.decoder.families import FULL, SLIDING, Family
from hexport.decoder.rope_scaling import Rope, read_ropes
from hexport.errors import HexportError

MAX_LAYERS = 1000  # far beyond any model


@dataclass(frozen=True)
class LayerKind:
    """A kind says what a layer attends to and how it is told positions.

    `sliding` means a sliding window of the past instead of all of it. `rope` is an index into the ropes of the config,
    or None in layers without rotary embeddings.
    """

    sliding: bool
    rope: int | None


def read_layers(
    config: dict, family: Family, head_dim: int, where: str
) -> tuple[int | None, tuple[LayerKind, ...], tuple[Rope, ...]]:
    """Return the sliding window, the kind of every layer, and the distinct rotary embeddings that the kinds index.

    The window is None where no layer slides. None does where the window is as wide as the longest context. Raises
    HexportError for a value that is missing, malformed or not supported.
    """
    n = integer(config, "num_hidden_layers", where)
    if n > MAX_LAYERS:
        raise HexportError(f"{where}: num_hidden_layers {n} is more than {MAX_LAYERS}; the file is damaged")
    window = _sliding_window(config, family, where)
    types = _layer_types(config, family, window, n, where)
    by_type = read_ropes(config, family, head_dim, where)
    rotated = _rotated_layers(config, family, n, where)
    of_layer = [by_type[kind] if has_rope else None for kind, has_rope in zip(types, rotated, strict=True)]
    ropes = tuple(dict.fromkeys(rope for rope in of_layer if rope is not None))
    if SLIDING in types:
        window = integer({"sliding_window": window}, "sliding_window", where)
    # A window as wide as the longest context hides nothing.
    slides = SLIDING in types and window < integer(config, "max_position_embeddings", where, window + 1)
    layers = tuple(
        LayerKind(slides and kind == SLIDING, None if rope is None else ropes.index(rope))
        for kind, rope in zip(types, of_layer, strict=True)
    )
    return window if slides else None, layers, ropes


def _sliding_window(config: dict, family: Family, where: str) -> int | None:
    """Return the config's window, or None where windows are switched off. A list of layer types needs no switch."""
    if "sliding_window" not in family.keys:
        return None
    switched_on = "use_sliding_window" not in family.keys or boolean(config, "use_sliding_window", where)
    if not switched_on and not config.get("layer_types"):
        return None
    return config.get("sliding_window", family.sliding_window)


def _layer_types(config: dict, family: Family, window: int | None, n: int, where: str) -> list[str]:
    if config.get("layer_types"):
        return _per_layer(config, "layer_types", n, (FULL, SLIDING), where)
    if family.sliding_layers == "pattern":
        pattern = integer(config, "sliding_window_pattern", where, 6)
        return [SLIDING if (i + 1) % pattern else FULL for i in range(n)]
    if window is None:
        return [FULL] * n
    match family.sliding_layers:
        case "all":
            return [SLIDING] * n
        case "upper":
            first = integer(config, "max_window_layers", where, 28, minimum=0)
            return [SLIDING if i >= first else FULL for i in range(n)]
        case "unrotated":
            return [FULL if rotated else SLIDING for rotated in _rotated_layers(config, family, n, where)]
    raise AssertionError(family.sliding_layers)


def _rotated_layers(config: dict, family: Family, n: int, where: str) -> list[bool]:
    """Return which layers have rotary embeddings. In `no_rope_layers`, 1 means that a layer has them."""
    if "no_rope_layers" not in family.keys:
        return [True] * n
    if config.get("no_rope_layers"):
        return [bool(rotated) for rotated in _per_layer(config, "no_rope_layers", n, (0, 1), where)]
    interval = integer(config, "no_rope_layer_interval", where, 4)
    return [(i + 1) % interval != 0 for i in range(n)]


def _per_layer(config: dict, key: str, n: int, allowed: tuple, where: str) -> list:
    values = config[key]
    if not isinstance(values, list) or len(values) != n:
        raise HexportError(f"{where}: {key} must be a list of {n} values, one per layer")
    for value in values:
        if value not in allowed:
            raise HexportError(
                f"{where}: {key}: {value!r} is not supported; supported: {', '.join(map(repr, allowed))}"
            )
    return values
