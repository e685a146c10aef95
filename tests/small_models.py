"""Small random transformers models of every family, each with the family's features in irregular places."""

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

torch.set_num_threads(1)  # for products this small, threads cost more than they save

SIZES = {
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 50,
    "max_position_embeddings": 64,
    "rms_norm_eps": 0.05,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
ORIGINAL_CONTEXT = 16  # of LongRoPE
# With 16 dimensions, one wavelength below 16 positions, two of 16 to 64, and five above.
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FULL, SLIDING = "full_attention", "sliding_attention"


def longrope(n: int, **parameters) -> dict:
    """Rotary parameters with n different short and n different long divisors."""
    return {
        "rope_type": "longrope",
        "rope_theta": 100.0,
        "original_max_position_embeddings": ORIGINAL_CONTEXT,
        "short_factor": [1.0 + i / 8 for i in range(n)],
        "long_factor": [2.0 + 3.0 * i for i in range(n)],
        **parameters,
    }


# name -> (model_type, changes of SIZES)
MODELS: dict[str, tuple[str, dict]] = {
    "llama, llama3 scaling": ("llama", {"head_dim": 16, "rope_parameters": LLAMA3}),
    "llama, all biases, linear scaling": (
        "llama",
        {
            "num_key_value_heads": 6,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0},
            "pretraining_tp": 2,
            "attention_dropout": 0.5,
        },
    ),
    "llama, one KV head, gelu, longrope": (
        "llama",
        {
            "num_key_value_heads": 1,
            "head_dim": 10,
            "hidden_act": "gelu_pytorch_tanh",
            "rope_parameters": longrope(5),
        },
    ),
    "gemma, one KV head": ("gemma", {"head_dim": 24, "num_key_value_heads": 1, "hidden_act": "gelu"}),
    "gemma, biases, untied, linear scaling": (
        "gemma",
        {
            "head_dim": 12,
            "num_key_value_heads": 6,
            "attention_bias": True,
            "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 50.0},
        },
    ),
    "gemma3, listed layers slide, full layers scaled": (
        "gemma3_text",
        {
            "head_dim": 24,
            "query_pre_attn_scalar": 70,
            "sliding_window": 5,
            "layer_types": [FULL, SLIDING, SLIDING, FULL],
            "rope_parameters": {
                FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000.0},
                SLIDING: {"rope_type": "default", "rope_theta": 40.0},
            },
        },
    ),
    "gemma3, every third layer full, biases, untied": (
        "gemma3_text",
        {
            "head_dim": 12,
            "num_key_value_heads": 1,
            "query_pre_attn_scalar": 30,
            "sliding_window": 20,
            "sliding_window_pattern": 3,
            "attention_bias": True,
            "tie_word_embeddings": False,
        },
    ),
    "gemma3, window of one token": (
        "gemma3_text",
        {"head_dim": 8, "num_key_value_heads": 6, "sliding_window": 1, "sliding_window_pattern": 2},
    ),
    "gemma3, window as wide as the longest context": (
        "gemma3_text",
        {"head_dim": 16, "sliding_window": 64, "sliding_window_pattern": 2, "query_pre_attn_scalar": 16},
    ),
    "phi3, longrope on three quarters of a head": (
        "phi3",
        {
            "hidden_size": 96,
            "num_key_value_heads": 1,
            "rope_parameters": longrope(6, partial_rotary_factor=0.75),
            "original_max_position_embeddings": ORIGINAL_CONTEXT,
        },
    ),
    "phi3, longrope with an attention factor, window, tied": (
        "phi3",
        {
            "rope_parameters": longrope(4, attention_factor=1.7),
            "original_max_position_embeddings": ORIGINAL_CONTEXT,
            "sliding_window": 6,
            "tie_word_embeddings": True,
        },
    ),
    "phi3, half of a head rotated, endless window": (
        "phi3",
        {
            "num_key_value_heads": 6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 30.0, "partial_rotary_factor": 0.5},
            "sliding_window": 262144,
        },
    ),
    "qwen2, seven queries per KV head, window switched off": (
        "qwen2",
        {
            "num_attention_heads": 14,
            "hidden_size": 56,
            "head_dim": 6,
            "tie_word_embeddings": True,
            "sliding_window": 4,
            "max_window_layers": 1,
            "use_sliding_window": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 70.0},
        },
    ),
    "qwen2, upper layers slide": (
        "qwen2",
        {"num_key_value_heads": 6, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    ),
    "qwen2, listed layers slide, llama3 scaling": (
        "qwen2",
        {
            "num_key_value_heads": 1,
            "head_dim": 16,
            "use_sliding_window": True,
            "sliding_window": 20,
            "layer_types": [SLIDING, FULL, FULL, SLIDING],
            "rope_parameters": LLAMA3,
        },
    ),
    "qwen3, biases": ("qwen3", {"head_dim": 20, "attention_bias": True, "max_window_layers": 0}),
    "qwen3, upper layers slide, tied": (
        "qwen3",
        {
            "head_dim": 10,
            "num_key_value_heads": 1,
            "use_sliding_window": True,
            "sliding_window": 5,
            "max_window_layers": 2,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 200.0},
        },
    ),
    "smollm3, listed layers without rope, all biases": (
        "smollm3",
        {
            "no_rope_layers": [1, 0, 0, 1],
            "attention_bias": True,
            "mlp_bias": True,
            "sliding_window": 3,
            "use_sliding_window": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 80.0},
        },
    ),
    "smollm3, layers without rope slide": (
        "smollm3",
        {
            "num_key_value_heads": 6,
            "no_rope_layer_interval": 2,
            "use_sliding_window": True,
            "sliding_window": 5,
            "tie_word_embeddings": False,
        },
    ),
    "smollm3, listed layers slide, llama3 scaling": (
        "smollm3",
        {
            "num_key_value_heads": 1,
            "head_dim": 16,
            "no_rope_layers": [0, 1, 1, 0],
            "layer_types": [SLIDING, SLIDING, FULL, FULL],
            "use_sliding_window": True,
            "sliding_window": 20,
            "rope_parameters": LLAMA3,
        },
    ),
    "smollm3, no layer with rope": ("smollm3", {"no_rope_layers": [0, 0, 0, 0]}),
}


def random_model(model_type: str, **changes) -> PreTrainedModel:
    """A float32 model with the given changes of SIZES, and weights of which each has an influence on the logits."""
    config = AutoConfig.for_model(model_type, **{**SIZES, **changes})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval().requires_grad_(False)
    random = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):  # far from 1, which is no change, and from 0, which is none for norms of 1 + w
            parameter.uniform_(0.3, 1.7, generator=random)
        elif name.endswith(".bias"):
            parameter.normal_(0, 0.7, generator=random)
        elif name in ("model.embed_tokens.weight", "lm_head.weight"):
            parameter.normal_(0, 0.3, generator=random)
        else:
            parameter.normal_(0, parameter.shape[1] ** -0.5, generator=random)
    return model


def random_tokens(vocab_size: int, n: int) -> list[int]:
    return torch.randint(vocab_size, (n,), generator=torch.Generator().manual_seed(1)).tolist()


def transformers_logits(model: PreTrainedModel, tokens: list[int]) -> np.ndarray:
    """Float32 (n, vocab) of one call."""
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].numpy()
