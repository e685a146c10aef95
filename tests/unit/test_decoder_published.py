"""The published config.json of each of the 12 models, with the keys that say nothing, gives the decoder it means.

They are in tests/published, as published but for ids of tokens and Phi's long divisors, of which only the ends are.
"""

import json
from pathlib import Path

import pytest
from small_models import FULL, SLIDING

from hexport.decoder.config import DecoderConfig, decoder_config
from hexport.decoder.layer_kinds import LayerKind
from hexport.decoder.rope_scaling import Llama3, LongRope, Rope

CONFIGS = {
    file.stem: json.loads(file.read_text()) for file in sorted((Path(__file__).parents[1] / "published").glob("*.json"))
}
PHI_LONG = CONFIGS["phi_4_mini"]["rope_scaling"]["long_factor"]
LLAMA3_2_ROPE = Llama3(32.0, 1.0, 4.0, 8192)
PHI_ROPE = Rope(10000.0, 96, LongRope((1.0,) * 48, tuple(PHI_LONG), 4096, pytest.approx(1.19024, abs=5e-6)))
GEMMA3_FULL_LAYERS = {5, 11, 17, 23}

# name -> (head_dim, RMSNorm epsilon, rotary embeddings, what the model has beyond a plain llama)
PUBLISHED: dict[str, tuple[int, float, tuple[Rope, ...], dict]] = {
    "stories110m": (64, 1e-5, (Rope(10000.0, 64),), {}),
    "llama3_2-1b_instruct": (64, 1e-5, (Rope(500000.0, 64, LLAMA3_2_ROPE),), {}),
    "llama3_2-3b_instruct": (128, 1e-5, (Rope(500000.0, 128, LLAMA3_2_ROPE),), {}),
    "gemma-2b": (
        256,
        1e-6,
        (Rope(10000.0, 256),),
        {"activation": "gelu_tanh", "norm_offset": 1.0, "embedding_scale": pytest.approx(45.2548, abs=5e-5)},
    ),
    "gemma3-1b": (
        256,
        1e-6,
        (Rope(10000.0, 256), Rope(1000000.0, 256)),
        {
            "activation": "gelu_tanh",
            "norm_offset": 1.0,
            "embedding_scale": pytest.approx(33.9411, abs=5e-5),
            "qk_norm": True,
            "sandwich_norms": True,
            "attention_scale": 1 / 16,
            "sliding_window": 512,
            "layers": tuple(LayerKind(i not in GEMMA3_FULL_LAYERS, int(i in GEMMA3_FULL_LAYERS)) for i in range(26)),
        },
    ),
    "phi_4_mini": (128, 1e-5, (PHI_ROPE,), {"fused": True}),
    "qwen2_5-0_5b": (64, 1e-6, (Rope(1000000.0, 64),), {"biases": {"q_proj", "k_proj", "v_proj"}}),
    "qwen2_5-1_5b": (128, 1e-6, (Rope(1000000.0, 128),), {"biases": {"q_proj", "k_proj", "v_proj"}}),
    "qwen3-0_6b": (128, 1e-6, (Rope(1000000.0, 128),), {"qk_norm": True}),
    "qwen3-1_7b": (128, 1e-6, (Rope(1000000.0, 128),), {"qk_norm": True}),
    "smollm2_135m": (64, 1e-5, (Rope(100000.0, 64),), {}),
    "smollm3-3b": (
        128,
        1e-6,
        (Rope(5000000.0, 128),),
        {"layers": tuple(LayerKind(False, None if i in range(3, 36, 4) else 0) for i in range(36))},
    ),
}


def plain_llama(config: dict, head_dim: int, eps: float, ropes: tuple[Rope, ...]) -> dict:
    """Fields of a DecoderConfig with the sizes of a config.json and nothing special."""
    return {
        "family": config["model_type"],
        "n_layers": config["num_hidden_layers"],
        "hidden_size": config["hidden_size"],
        "intermediate_size": config["intermediate_size"],
        "n_heads": config["num_attention_heads"],
        "n_kv_heads": config["num_key_value_heads"],
        "head_dim": head_dim,
        "vocab_size": config["vocab_size"],
        "norm_eps": eps,
        "norm_offset": 0.0,
        "activation": "silu",
        "embedding_scale": 1.0,
        "attention_scale": head_dim**-0.5,
        "qk_norm": False,
        "sandwich_norms": False,
        "fused": False,
        "biases": frozenset(),
        "tied_head": True,
        "sliding_window": None,
        "layers": (LayerKind(False, 0),) * config["num_hidden_layers"],
        "ropes": ropes,
    }


@pytest.mark.parametrize("name", CONFIGS)
def test_a_published_config_gives_the_decoder_it_means(name):
    *plain, special = PUBLISHED[name]
    assert decoder_config(CONFIGS[name]) == DecoderConfig(**{**plain_llama(CONFIGS[name], *plain), **special})


# What transformers 5 writes in the place of the keys of transformers 4.
RESPELLED = {
    "llama3_2-1b_instruct": {
        "rope_parameters": {"rope_theta": 500000.0, **CONFIGS["llama3_2-1b_instruct"]["rope_scaling"]}
    },
    "gemma3-1b": {
        "_sliding_window_pattern": 6,
        "layer_types": [FULL if i in GEMMA3_FULL_LAYERS else SLIDING for i in range(26)],
        "rope_parameters": {
            FULL: {"rope_theta": 1000000, "rope_type": "default"},
            SLIDING: {"rope_theta": 10000, "rope_type": "default"},
        },
        "use_bidirectional_attention": False,
    },
    "phi_4_mini": {
        "rope_parameters": {
            "long_factor": PHI_LONG,
            "short_factor": [1.0] * 48,
            "original_max_position_embeddings": 4096,
            "partial_rotary_factor": 0.75,
            "rope_theta": 10000.0,
            "rope_type": "longrope",
            "type": "longrope",
        }
    },
    "qwen2_5-0_5b": {
        "layer_types": [FULL] * 24,
        "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"},
        "sliding_window": None,
    },
    "smollm3-3b": {"rope_parameters": {"rope_theta": 5000000.0, "rope_type": "default"}},
}
OLD_KEYS = {
    "rope_theta",
    "rope_scaling",
    "rope_local_base_freq",
    "partial_rotary_factor",
    "sliding_window_pattern",
    "torch_dtype",
}


@pytest.mark.parametrize("name", RESPELLED)
def test_a_published_config_means_the_same_when_transformers_5_has_written_it(name):
    old = CONFIGS[name]
    kept = {key: value for key, value in old.items() if key not in OLD_KEYS}
    new = {**kept, "dtype": "bfloat16", "transformers_version": "5.0.0", **RESPELLED[name]}
    assert decoder_config(new) == decoder_config(old)
