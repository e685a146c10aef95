"""What a decoder is made of, read from a Hugging Face style config.json. A family differs by data, not by code."""

from dataclasses import dataclass
from pathlib import Path

from hexport.checkpoints.json_file import read_json
from hexport.decoder.config_values import integer, positive_number
from hexport.decoder.families import COMMON_KEYS, FAMILIES, FULL, IRRELEVANT_KEYS, SLIDING, USUAL_VALUES, Family
from hexport.decoder.rope_scaling import Rope, read_ropes
from hexport.errors import HexportError

MAX_LAYERS = 1000  # far beyond any model


@dataclass(frozen=True)
class LayerKind:
    """What a layer attends to, all of the past or a sliding window of it, and how it is told positions.

    `rope` is an index into the ropes of the config, or None in layers without rotary embeddings.
    """

    sliding: bool
    rope: int | None


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Sizes and constants of a decoder.

    The hidden size need not equal n_heads * head_dim, and each KV head serves n_heads / n_kv_heads query heads (GQA).
    Norms multiply by norm_offset + weight. `biases` names the projections that have one. In sliding layers a token
    attends to the last `sliding_window` tokens, itself among them.
    """

    family: str
    n_layers: int
    hidden_size: int
    intermediate_size: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab_size: int
    norm_eps: float
    norm_offset: float
    activation: str
    embedding_scale: float
    attention_scale: float
    qk_norm: bool
    sandwich_norms: bool
    fused: bool
    biases: frozenset[str]
    tied_head: bool
    sliding_window: int | None
    layers: tuple[LayerKind, ...]
    ropes: tuple[Rope, ...]

    def layer_signature(self, layer: int) -> str:
        """Layers with equal signatures share one template: other masks and angles are only wired differently."""
        return "attention" if self.layers[layer].rope is not None else "attention without rope"


def load_config(path: Path) -> DecoderConfig:
    """Read config.json. Raises HexportError for a family, key or value that the decoder does not compute."""
    return decoder_config(read_json(path), str(path))


def decoder_config(config: dict, where: str = "config.json") -> DecoderConfig:
    """Raises HexportError for a model_type that is not known, and for any key that might change the computation."""
    name = config.get("model_type")
    if name not in list(FAMILIES):  # a list: the value may be unhashable
        raise HexportError(f"{where}: model_type {name!r} is not supported; supported: {', '.join(FAMILIES)}")
    family = FAMILIES[name]
    _check_keys(config, family, where)
    heads, hidden = integer(config, "num_attention_heads", where), integer(config, "hidden_size", where)
    kv_heads = _size_or(heads, config, "num_key_value_heads", family.n_kv_heads, where)
    head_dim = _size_or(hidden // heads, config, "head_dim", family.head_dim, where)
    if heads % kv_heads:
        raise HexportError(f"{where}: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}")
    window, layers, ropes = _layers(config, family, head_dim, where)
    return DecoderConfig(
        family=name,
        n_layers=len(layers),
        hidden_size=hidden,
        intermediate_size=integer(config, "intermediate_size", where),
        n_heads=heads,
        n_kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=integer(config, "vocab_size", where),
        norm_eps=positive_number(config, "rms_norm_eps", where, family.norm_eps),
        norm_offset=family.norm_offset,
        activation=_activation(config, family, where),
        embedding_scale=hidden**0.5 if family.scaled_embedding else 1.0,
        attention_scale=_attention_scale(config, family, head_dim, where),
        qk_norm=family.qk_norm,
        sandwich_norms=family.sandwich_norms,
        fused=family.fused,
        biases=_biases(config, family),
        tied_head=bool(config.get("tie_word_embeddings", family.tied_head)),
        sliding_window=window,
        layers=layers,
        ropes=ropes,
    )


def _check_keys(config: dict, family: Family, where: str) -> None:
    """A key that is not known may be a feature; null, false and 0 turn any feature off."""
    for key, value in config.items():
        if key in COMMON_KEYS or key in family.keys or key in IRRELEVANT_KEYS or not value:
            continue
        if key == "sliding_window" and config.get("use_sliding_window") is False:
            continue
        if value != USUAL_VALUES.get(key):
            raise HexportError(
                f"{where}: {key}: {value!r} is not supported for model_type {config['model_type']!r}; "
                "remove the key if it does not change what the model computes"
            )


def _size_or(derived: int, config: dict, key: str, default: int | None, where: str) -> int:
    """A size that is derived from others where the config says null, or says nothing and the family has no default."""
    return derived if config.get(key, default) is None else integer(config, key, where, default)


def _activation(config: dict, family: Family, where: str) -> str:
    activations = dict(family.activations)
    for key in ("hidden_act", "hidden_activation"):
        if config.get(key) is not None and config[key] not in list(activations):  # a list: the value may be unhashable
            known = ", ".join(map(repr, activations))
            raise HexportError(f"{where}: {key}: {config[key]!r} is not supported; supported: {known}")
    return activations[config.get(family.activation_key) or family.activation]


def _attention_scale(config: dict, family: Family, head_dim: int, where: str) -> float:
    if "query_pre_attn_scalar" in family.keys:
        return positive_number(config, "query_pre_attn_scalar", where, 256) ** -0.5
    return head_dim**-0.5


def _biases(config: dict, family: Family) -> frozenset[str]:
    biases = {"q_proj", "k_proj", "v_proj"} if family.qkv_bias else set()
    if "attention_bias" in family.keys and config.get("attention_bias"):
        biases |= {"q_proj", "k_proj", "v_proj", "o_proj"}
    if "mlp_bias" in family.keys and config.get("mlp_bias"):
        biases |= {"gate_proj", "up_proj", "down_proj"}
    return frozenset(biases)


def _layers(
    config: dict, family: Family, head_dim: int, where: str
) -> tuple[int | None, tuple[LayerKind, ...], tuple[Rope, ...]]:
    """The sliding window, the kind of every layer, and the distinct rotary embeddings that these name."""
    n = integer(config, "num_hidden_layers", where)
    if n > MAX_LAYERS:
        raise HexportError(f"{where}: num_hidden_layers {n} is more than {MAX_LAYERS}; the file is damaged")
    window = _sliding_window(config, family)
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


def _sliding_window(config: dict, family: Family) -> int | None:
    """None where windows are switched off. A list of layer types decides by itself."""
    if "sliding_window" not in family.keys:
        return None
    if "use_sliding_window" in family.keys and not (config.get("use_sliding_window") or config.get("layer_types")):
        return None
    return config.get("sliding_window", family.sliding_window)


def _layer_types(config: dict, family: Family, window: int | None, n: int, where: str) -> list[str]:
    if config.get("layer_types") and "layer_types" in family.keys:
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
    """In `no_rope_layers`, 1 means that a layer has rotary embeddings, whatever the name says."""
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
