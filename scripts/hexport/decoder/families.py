"""This module lists the decoder families by model_type, and what each computes beyond what all of them share.

It holds data only. The defaults, for keys that a config.json leaves out, are those of transformers 5's configuration
classes.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family is what all models of one model_type have in common.

    norm_offset: is added to the weight of every norm.
    scaled_embedding: the embedding is multiplied by sqrt(hidden_size).
    qk_norm: queries and keys are normalised per head, before they are rotated.
    sandwich_norms: the outputs of attention and feed-forward are normalised too.
    fused: q, k and v are one tensor in the checkpoint, and so are gate and up.
    qkv_bias: q, k and v have biases, whatever the config says.
    partial_rotary: `partial_rotary_factor` of a head's dimensions are rotated.
    sliding_layers: says which layers have a sliding window where the config does not list them: all, those from
        max_window_layers up, those without rotary embeddings, or all but every sliding_window_pattern-th.
    layer_ropes: sliding and full layers have rotary parameters of their own.
    keys: lists the keys of config.json, beside the common ones, that this family reads.
    """

    keys: frozenset[str] = frozenset()
    activation_key: str = "hidden_act"
    activations: tuple[tuple[str, str], ...] = (("silu", "silu"), ("gelu_pytorch_tanh", "gelu_tanh"))
    activation: str = "silu"
    norm_offset: float = 0.0
    norm_eps: float = 1e-6
    scaled_embedding: bool = False
    qk_norm: bool = False
    sandwich_norms: bool = False
    fused: bool = False
    qkv_bias: bool = False
    partial_rotary: bool = False
    sliding_layers: Literal["all", "upper", "unrotated", "pattern"] | None = None
    sliding_window: int | None = None
    layer_ropes: bool = False
    rope_theta: float = 10000.0
    n_kv_heads: int | None = None
    head_dim: int | None = None
    original_context_len: int | None = None
    tied_head: bool = False


FULL, SLIDING = "full_attention", "sliding_attention"  # values of layer_types
WINDOW_KEYS = {"sliding_window", "use_sliding_window", "max_window_layers", "layer_types"}
# Gemma's published configs say "gelu" and mean the tanh approximation. transformers reads them so, too.
GEMMA_ACTIVATIONS = (("gelu", "gelu_tanh"), ("gelu_pytorch_tanh", "gelu_tanh"))

FAMILIES = {
    "llama": Family(keys=frozenset({"attention_bias", "mlp_bias"})),
    "gemma": Family(
        keys=frozenset({"attention_bias"}),
        activations=GEMMA_ACTIVATIONS,
        activation="gelu_pytorch_tanh",
        norm_offset=1.0,
        scaled_embedding=True,
        n_kv_heads=16,
        head_dim=256,
        tied_head=True,
    ),
    "gemma3_text": Family(
        keys=frozenset(
            {
                "attention_bias",
                "query_pre_attn_scalar",
                "rope_local_base_freq",
                "sliding_window",
                "layer_types",
                "sliding_window_pattern",
                "_sliding_window_pattern",
            }
        ),
        activation_key="hidden_activation",
        activation="gelu_pytorch_tanh",
        norm_offset=1.0,
        scaled_embedding=True,
        qk_norm=True,
        sandwich_norms=True,
        sliding_layers="pattern",
        sliding_window=4096,
        layer_ropes=True,
        rope_theta=1e6,
        n_kv_heads=4,
        head_dim=256,
        tied_head=True,
    ),
    "phi3": Family(
        keys=frozenset({"sliding_window", "original_max_position_embeddings"}),
        norm_eps=1e-5,
        fused=True,
        partial_rotary=True,
        sliding_layers="all",
        original_context_len=4096,
    ),
    "qwen2": Family(
        keys=frozenset(WINDOW_KEYS),
        qkv_bias=True,
        sliding_layers="upper",
        sliding_window=4096,
        n_kv_heads=32,
    ),
    "qwen3": Family(
        keys=frozenset({"attention_bias", *WINDOW_KEYS}),
        qk_norm=True,
        sliding_layers="upper",
        sliding_window=4096,
        n_kv_heads=32,
        head_dim=128,
    ),
    "smollm3": Family(
        keys=frozenset({"attention_bias", "mlp_bias", "no_rope_layers", "no_rope_layer_interval", *WINDOW_KEYS}),
        sliding_layers="unrotated",
        rope_theta=2e6,
        n_kv_heads=4,
        tied_head=True,
    ),
}

# Keys that every family reads.
COMMON_KEYS = frozenset(
    {
        "model_type",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "vocab_size",
        "rms_norm_eps",
        "hidden_act",
        "hidden_activation",
        "max_position_embeddings",
        "tie_word_embeddings",
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "partial_rotary_factor",
    }
)

# Keys that say nothing about what the decoder computes from token ids to logits.
IRRELEVANT_KEYS = frozenset(
    {
        "_attn_implementation_autoset",
        "_name_or_path",
        "architectures",
        "attention_dropout",
        "attn_implementation",
        "auto_map",
        "bos_token_id",
        "cache_implementation",
        "chunk_size_feed_forward",
        "do_sample",
        "dtype",
        "embd_pdrop",
        "eos_token_id",
        "id2label",
        "initializer_range",
        "is_llama_config",
        "label2id",
        "max_window_layers",
        "model_max_length",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "pretraining_tp",  # splits matrix products without changing them
        "problem_type",
        "resid_pdrop",
        "return_dict",
        "temperature",
        "tokenizer_class",
        "top_k",
        "top_p",
        "torch_dtype",
        "transformers.js_config",
        "transformers_version",
        "unsloth_fixed",
        "unsloth_version",
        "use_cache",
    }
)
# Keys that may be present if they have this value, which means the usual computation.
USUAL_VALUES = {"full_attn_mod": 1, "interpolate_factor": 1, "embedding_multiplier": 1.0, "residual_multiplier": 1.0}
