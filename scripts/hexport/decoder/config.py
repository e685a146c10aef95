"""This module reads what a decoder is made of from a Hugging Face config.json. Families differ by data, not by code."""

from dataclasses import dataclass
from pathlib import Path

from hexport.decoder.config_values import boolean, integer, positive_number
from hexport.decoder.families import COMMON_KEYS, FAMILIES, IRRELEVANT_KEYS, USUAL_VALUES, Family
from hexport.decoder.layer_kinds import LayerKind, read_layers
from hexport.decoder.rope_scaling import Rope
from hexport.errors import HexportError
from hexport.json_file import read_json


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """A config holds the sizes and constants of a decoder.

    The hidden size need not equal n_heads * head_dim, and each KV head serves n_heads / n_kv_heads query heads (GQA).
    Norms multiply by norm_offset + weight. `biases` names the projections that have one, such as `q_proj`. In sliding
    layers a token attends to the last `sliding_window` tokens, itself included. `ropes` are the distinct rotary
    embeddings, and `layers` says which of them each layer has.
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
    # These are other forms of the same computation, whose codes are more precise. A recipe chooses them.
    masked_softmax: bool = False
    r3: bool = False
    row_scales: bool = False

    def layer_signature(self, layer: int) -> str:
        """Return a text that is equal for layers that can share one template.

        Other masks and other angles need no template of their own, as they are only wired differently.
        """
        return "attention" if self.layers[layer].rope is not None else "attention without rope"


def load_config(path: Path) -> DecoderConfig:
    """Read a config.json. Raises HexportError for a family, key or value that the decoder does not compute."""
    return decoder_config(read_json(path), str(path))


def decoder_config(config: dict, where: str = "config.json") -> DecoderConfig:
    """Return the sizes and constants that a config.json says. `where` names the file in errors.

    Raises HexportError for a model_type that is not known, for any key that might change the computation, and for a
    value that is missing or not supported.
    """
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
    window, layers, ropes = read_layers(config, family, head_dim, where)
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
        biases=_biases(config, family, where),
        tied_head=boolean(config, "tie_word_embeddings", where, family.tied_head),
        sliding_window=window,
        layers=layers,
        ropes=ropes,
    )


def _check_keys(config: dict, family: Family, where: str) -> None:
    """Raise HexportError for a key that is not known, as it may be a feature.

    A value of null, false or 0 turns any feature off.
    """
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
    """Return a size of the config, or `derived` where that size is null.

    It is also derived where the config does not say it and the family has no default.
    """
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


def _biases(config: dict, family: Family, where: str) -> frozenset[str]:
    biases = {"q_proj", "k_proj", "v_proj"} if family.qkv_bias else set()
    if boolean(config, "attention_bias", where):
        biases |= {"q_proj", "k_proj", "v_proj", "o_proj"}
    if boolean(config, "mlp_bias", where):
        biases |= {"gate_proj", "up_proj", "down_proj"}
    return frozenset(biases)
