"""This module says where a decoder's parameters are in the canonical checkpoint.

Parameters have the names of `decoder.model`, and tensors those of Hugging Face: `attention.q_proj.weight` of layer 3 is
`model.layers.3.self_attn.q_proj.weight`.
"""

from dataclasses import dataclass

from hexport.decoder.config import DecoderConfig
from hexport.decoder.sizes import sizes_of


@dataclass(frozen=True)
class Source:
    """A source is a tensor of the checkpoint. `rows`, from and up to, are given where a parameter is a part of it."""

    tensor: str
    rows: tuple[int, int] | None = None


def prologue_sources(rows: tuple[int, int] | None) -> dict[str, Source]:
    """Return the source of each parameter of `Prologue`, of all rows of the table or of some."""
    return {"embedding.weight": Source("model.embed_tokens.weight", rows)}


def layer_sources(config: DecoderConfig, layer: int) -> dict[str, Source]:
    """Return the source of each parameter of `Layer`, for layer number `layer`."""
    prefix = f"model.layers.{layer}."
    sources = {f"{name}.weight": Source(f"{prefix}{norm}.weight") for name, norm in _norms(config).items()}
    for name, (tensor, rows) in _projections(config).items():
        sources[f"{name}.weight"] = Source(f"{prefix}{tensor}.weight", rows)
        if name.split(".")[1] in config.biases:
            sources[f"{name}.bias"] = Source(f"{prefix}{tensor}.bias", rows)
    return sources


def epilogue_sources(config: DecoderConfig, rows: tuple[int, int] | None) -> dict[str, Source]:
    """Return the source of each parameter of `Epilogue`, of all rows of the output projection or of some."""
    head = "model.embed_tokens.weight" if config.tied_head else "lm_head.weight"
    return {"norm.weight": Source("model.norm.weight"), "output.weight": Source(head, rows)}


def tensor_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor in the canonical checkpoint by name, in the order of the forward pass."""
    vocabulary, projections = (config.vocab_size, config.hidden_size), sizes_of(config).projections
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": vocabulary}
    for i in range(config.n_layers):
        for name, source in layer_sources(config, i).items():
            module, _, kind = name.rpartition(".")
            if module not in projections:  # a norm
                shapes[source.tensor] = (config.head_dim if module.startswith("attention.") else config.hidden_size,)
                continue
            n_in, n_out = projections[module]
            n_rows = n_out if source.rows is None else source.rows[1]  # the last of several parts has the last rows
            shapes[source.tensor] = (n_rows, n_in) if kind == "weight" else (n_rows,)
    shapes["model.norm.weight"] = (config.hidden_size,)
    return shapes if config.tied_head else shapes | {"lm_head.weight": vocabulary}


def _projections(config: DecoderConfig) -> dict[str, tuple[str, tuple[int, int] | None]]:
    """Return the checkpoint's name of each projection of `Layer`, and the rows that it has of a fused tensor."""
    if not config.fused:
        names = {f"attention.{name}_proj": (f"self_attn.{name}_proj", None) for name in "qkvo"}
        return names | {f"feed_forward.{name}_proj": (f"mlp.{name}_proj", None) for name in ("gate", "up", "down")}
    q, kv, ffn = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim, config.intermediate_size
    return {
        "attention.q_proj": ("self_attn.qkv_proj", (0, q)),
        "attention.k_proj": ("self_attn.qkv_proj", (q, q + kv)),
        "attention.v_proj": ("self_attn.qkv_proj", (q + kv, q + 2 * kv)),
        "attention.o_proj": ("self_attn.o_proj", None),
        "feed_forward.gate_proj": ("mlp.gate_up_proj", (0, ffn)),
        "feed_forward.up_proj": ("mlp.gate_up_proj", (ffn, 2 * ffn)),
        "feed_forward.down_proj": ("mlp.down_proj", None),
    }


def _norms(config: DecoderConfig) -> dict[str, str]:
    """Return the checkpoint's name of each norm of `Layer`.

    What Llama calls post_attention_layernorm stands before its feed-forward.
    """
    if config.sandwich_norms:
        norms = {
            "input_norm": "input_layernorm",
            "post_attention_norm": "post_attention_layernorm",
            "pre_feed_forward_norm": "pre_feedforward_layernorm",
            "post_feed_forward_norm": "post_feedforward_layernorm",
        }
    else:
        norms = {"input_norm": "input_layernorm", "pre_feed_forward_norm": "post_attention_layernorm"}
    if config.qk_norm:
        norms |= {"attention.q_norm": "self_attn.q_norm", "attention.k_norm": "self_attn.k_norm"}
    return norms
