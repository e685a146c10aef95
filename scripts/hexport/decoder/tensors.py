"""This module says where a decoder's parameters are in the canonical checkpoint.

Parameters have the names of `decoder.model`, and tensors those of Hugging Face: `attention.q_proj.weight` of layer 3 is
`model.layers.3.self_attn.q_proj.weight`.
"""

from dataclasses import dataclass

from hexport.decoder.config import DecoderConfig


@dataclass(frozen=True)
class Source:
    """A source is a tensor of the checkpoint. `rows`, from and up to, are given where a parameter is a part of it."""

    tensor: str
    rows: tuple[int, int] | None = None


def prologue_sources(rows: tuple[int, int] | None = None) -> dict[str, Source]:
    """Return the source of each parameter of `Prologue`, of all rows of the table or of some."""
    return {"embedding.weight": Source("model.embed_tokens.weight", rows)}


def layer_sources(config: DecoderConfig, layer: int) -> dict[str, Source]:
    """Return the source of each parameter of `Layer`, for layer number `layer`."""
    q, kv, ffn = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim, config.intermediate_size
    if config.fused:
        projections = {
            "attention.q_proj": ("self_attn.qkv_proj", (0, q)),
            "attention.k_proj": ("self_attn.qkv_proj", (q, q + kv)),
            "attention.v_proj": ("self_attn.qkv_proj", (q + kv, q + 2 * kv)),
            "feed_forward.gate_proj": ("mlp.gate_up_proj", (0, ffn)),
            "feed_forward.up_proj": ("mlp.gate_up_proj", (ffn, 2 * ffn)),
        }
    else:
        projections = {f"attention.{name}_proj": (f"self_attn.{name}_proj", None) for name in "qkv"}
        projections |= {f"feed_forward.{name}_proj": (f"mlp.{name}_proj", None) for name in ("gate", "up")}
    projections |= {
        "attention.o_proj": ("self_attn.o_proj", None),
        "feed_forward.down_proj": ("mlp.down_proj", None),
    }
    prefix = f"model.layers.{layer}."
    sources = {f"{name}.weight": Source(f"{prefix}{norm}.weight") for name, norm in _norms(config).items()}
    for name, (tensor, rows) in projections.items():
        sources[f"{name}.weight"] = Source(f"{prefix}{tensor}.weight", rows)
        if name.split(".")[1] in config.biases:
            sources[f"{name}.bias"] = Source(f"{prefix}{tensor}.bias", rows)
    return sources


def epilogue_sources(config: DecoderConfig, rows: tuple[int, int] | None = None) -> dict[str, Source]:
    """Return the source of each parameter of `Epilogue`, of all rows of the output projection or of some."""
    head = "model.embed_tokens.weight" if config.tied_head else "lm_head.weight"
    return {"norm.weight": Source("model.norm.weight"), "output.weight": Source(head, rows)}


def tensor_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor in the canonical checkpoint by name, in the order of the forward pass."""
    vocabulary = (config.vocab_size, config.hidden_size)
    shapes = {"model.embed_tokens.weight": vocabulary}
    for i in range(config.n_layers):
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in _layer_shapes(config).items()}
    shapes["model.norm.weight"] = (config.hidden_size,)
    return shapes if config.tied_head else shapes | {"lm_head.weight": vocabulary}


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


def _layer_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    hidden, ffn = config.hidden_size, config.intermediate_size
    q, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    rows = {"qkv_proj": q + 2 * kv} if config.fused else {"q_proj": q, "k_proj": kv, "v_proj": kv}
    matrices = {f"self_attn.{name}": (n, hidden) for name, n in rows.items()} | {"self_attn.o_proj": (hidden, q)}
    rows = {"gate_up_proj": 2 * ffn} if config.fused else {"gate_proj": ffn, "up_proj": ffn}
    matrices |= {f"mlp.{name}": (n, hidden) for name, n in rows.items()} | {"mlp.down_proj": (hidden, ffn)}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, norm in _norms(config).items():
        shapes[f"{norm}.weight"] = (config.head_dim if name.startswith("attention.") else hidden,)
    for name, shape in matrices.items():
        shapes[f"{name}.weight"] = shape
        if name.split(".")[1] in config.biases:
            shapes[f"{name}.bias"] = shape[:1]
    return shapes
