"""What a decoder is made of, read from a Hugging Face style config.json. A family differs by data, not by code."""

import json
from dataclasses import dataclass
from pathlib import Path

from hexport.errors import HexportError

FAMILIES = ("llama",)

# Keys of a llama config.json that change the computation, with the only value that this decoder computes.
REQUIRED_VALUES = {
    "hidden_act": ("silu", "silu"),
    "attention_bias": (False, False),
    "mlp_bias": (False, False),
    "pretraining_tp": (1, 1),
}


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Sizes and constants of a decoder.

    The hidden size need not equal n_heads * head_dim, and each KV head serves n_heads / n_kv_heads query heads (GQA).
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
    rope_theta: float
    tied_head: bool

    @property
    def attention_scale(self) -> float:
        return self.head_dim**-0.5

    def layer_signature(self, layer: int) -> str:
        """Layers with equal signatures share one template."""
        return "attention"


def load_config(path: Path) -> DecoderConfig:
    """Read config.json. Raises HexportError for a family, key or value that the decoder does not compute."""
    try:
        return decoder_config(json.loads(path.read_text(encoding="utf-8")), str(path))
    except json.JSONDecodeError as error:
        raise HexportError(f"{path}: not JSON: {error}") from None


def decoder_config(config: dict, where: str = "config.json") -> DecoderConfig:
    family = config.get("model_type")
    if family not in FAMILIES:
        raise HexportError(f"{where}: model_type {family!r} is not supported; supported: {', '.join(FAMILIES)}")
    for key, (default, computed) in REQUIRED_VALUES.items():
        if config.get(key, default) != computed:
            raise HexportError(f"{where}: {key}: {config[key]!r} is not supported; supported: {computed!r}")
    try:
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
        decoder = DecoderConfig(
            family=family,
            n_layers=int(config["num_hidden_layers"]),
            hidden_size=hidden,
            intermediate_size=int(config["intermediate_size"]),
            n_heads=heads,
            n_kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or hidden // heads),
            vocab_size=int(config["vocab_size"]),
            norm_eps=float(config.get("rms_norm_eps", 1e-6)),
            rope_theta=_rope_theta(config, where),
            tied_head=bool(config.get("tie_word_embeddings", False)),
        )
    except KeyError as error:
        raise HexportError(f"{where}: {error.args[0]} is missing") from None
    if decoder.n_heads % decoder.n_kv_heads:
        raise HexportError(
            f"{where}: num_attention_heads {decoder.n_heads} is not a multiple of "
            f"num_key_value_heads {decoder.n_kv_heads}"
        )
    if decoder.head_dim % 2:
        raise HexportError(f"{where}: head_dim {decoder.head_dim} is odd; rotary embeddings need an even one")
    return decoder


def _rope_theta(config: dict, where: str) -> float:
    """Read both spellings: `rope_theta` + `rope_scaling` (transformers 4) and `rope_parameters` (transformers 5)."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise HexportError(f"{where}: rope scaling {kind!r} is not supported; supported: default")
    if float(rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))) != 1.0:
        raise HexportError(f"{where}: partial_rotary_factor other than 1 is not supported")
    return float(rope.get("rope_theta", config.get("rope_theta", 10000.0)))
