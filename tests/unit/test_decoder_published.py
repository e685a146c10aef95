"""The published config.json of each of the 12 models, with the keys that say nothing, gives the decoder it means."""

import pytest
from small_models import FULL, SLIDING

from hexport.decoder.config import DecoderConfig, decoder_config
from hexport.decoder.layer_kinds import LayerKind
from hexport.decoder.rope_scaling import Llama3, LongRope, Rope

NOISE = {
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": [2, 7],
    "initializer_range": 0.02,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.48.0",
    "use_cache": True,
}


def sizes(hidden: int, layers: int, heads: int, kv: int, ffn: int, vocab: int) -> dict:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "intermediate_size": ffn,
        "vocab_size": vocab,
    }


def llama3_2(**differences) -> dict:
    return {
        **NOISE,
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "hidden_act": "silu",
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
        **differences,
    }


def qwen(model_type: str, **differences) -> dict:
    return {
        **NOISE,
        "architectures": [f"{model_type.capitalize()}ForCausalLM"],
        "model_type": model_type,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        **differences,
    }


PHI_LONG = [1.0 + i * (47.77 - 1.0) / 47 for i in range(48)]  # of the published values, only the ends
PHI = {
    **NOISE,
    "architectures": ["Phi3ForCausalLM"],
    "model_type": "phi3",
    **sizes(3072, 32, 24, 8, 8192, 200064),
    "attention_bias": False,
    "auto_map": {
        "AutoConfig": "configuration_phi3.Phi3Config",
        "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
    },
    "embd_pdrop": 0.0,
    "full_attn_mod": 1,
    "hidden_act": "silu",
    "interpolate_factor": 1,
    "lm_head_bias": False,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "original_max_position_embeddings": 4096,
    "pad_token_id": 199999,
    "partial_rotary_factor": 0.75,
    "resid_pdrop": 0.0,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {"long_factor": PHI_LONG, "short_factor": [1.0] * 48, "type": "longrope"},
    "rope_theta": 10000.0,
    "sliding_window": 262144,
    "tie_word_embeddings": True,
}
GEMMA3 = {
    **NOISE,
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    **sizes(1152, 26, 4, 1, 6912, 262144),
    "attention_bias": False,
    "attn_logit_softcapping": None,
    "cache_implementation": "hybrid",
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 32768,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
}
SMOLLM3_ROTATED = [1, 1, 1, 0] * 9
LLAMA3_2_ROPE = Llama3(32.0, 1.0, 4.0, 8192)
PHI_ROPE = Rope(10000.0, 96, LongRope((1.0,) * 48, tuple(PHI_LONG), 4096, pytest.approx(1.19024, abs=5e-6)))
GEMMA3_FULL_LAYERS = {5, 11, 17, 23}

# name -> (config.json, head_dim, RMSNorm epsilon, rotary embeddings, what the model has beyond a plain llama)
PUBLISHED: dict[str, tuple[dict, int, float, tuple[Rope, ...], dict]] = {
    "stories110m": (
        {
            "model_type": "llama",
            **sizes(768, 12, 12, 12, 2048, 32000),
            "max_position_embeddings": 1024,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": True,
        },
        64,
        1e-5,
        (Rope(10000.0, 64),),
        {},
    ),
    "llama3_2-1b_instruct": (
        llama3_2(head_dim=64, **sizes(2048, 16, 32, 8, 8192, 128256)),
        64,
        1e-5,
        (Rope(500000.0, 64, LLAMA3_2_ROPE),),
        {},
    ),
    "llama3_2-3b_instruct": (
        llama3_2(head_dim=128, **sizes(3072, 28, 24, 8, 8192, 128256)),
        128,
        1e-5,
        (Rope(500000.0, 128, LLAMA3_2_ROPE),),
        {},
    ),
    "gemma-2b": (
        {
            **NOISE,
            "architectures": ["GemmaForCausalLM"],
            "model_type": "gemma",
            **sizes(2048, 18, 8, 1, 16384, 256000),
            "attention_bias": False,
            "head_dim": 256,
            "hidden_act": "gelu",
            "hidden_activation": None,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-06,
            "rope_scaling": None,
            "rope_theta": 10000.0,
        },
        256,
        1e-6,
        (Rope(10000.0, 256),),
        {"activation": "gelu_tanh", "norm_offset": 1.0, "embedding_scale": pytest.approx(45.2548, abs=5e-5)},
    ),
    "gemma3-1b": (
        GEMMA3,
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
    "phi_4_mini": (PHI, 128, 1e-5, (PHI_ROPE,), {"fused": True}),
    "qwen2_5-0_5b": (
        qwen(
            "qwen2",
            **sizes(896, 24, 14, 2, 4864, 151936),
            max_position_embeddings=32768,
            sliding_window=32768,
            max_window_layers=21,
        ),
        64,
        1e-6,
        (Rope(1000000.0, 64),),
        {"biases": {"q_proj", "k_proj", "v_proj"}},
    ),
    "qwen2_5-1_5b": (
        qwen(
            "qwen2",
            **sizes(1536, 28, 12, 2, 8960, 151936),
            max_position_embeddings=32768,
            sliding_window=32768,
            max_window_layers=21,
        ),
        128,
        1e-6,
        (Rope(1000000.0, 128),),
        {"biases": {"q_proj", "k_proj", "v_proj"}},
    ),
    **{
        name: (
            qwen(
                "qwen3",
                **sizes(hidden, 28, 16, 8, ffn, 151936),
                attention_bias=False,
                head_dim=128,
                max_position_embeddings=40960,
                max_window_layers=28,
                rope_scaling=None,
                sliding_window=None,
            ),
            128,
            1e-6,
            (Rope(1000000.0, 128),),
            {"qk_norm": True},
        )
        for name, hidden, ffn in (("qwen3-0_6b", 1024, 3072), ("qwen3-1_7b", 2048, 6144))
    },
    "smollm2_135m": (
        {
            **NOISE,
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            **sizes(576, 30, 9, 3, 1536, 49152),
            "attention_bias": False,
            "hidden_act": "silu",
            "is_llama_config": True,
            "max_position_embeddings": 8192,
            "mlp_bias": False,
            "pretraining_tp": 1,
            "rms_norm_eps": 1e-05,
            "rope_interleaved": False,
            "rope_scaling": None,
            "rope_theta": 100000,
            "tie_word_embeddings": True,
            "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}},
        },
        64,
        1e-5,
        (Rope(100000.0, 64),),
        {},
    ),
    "smollm3-3b": (
        {
            **NOISE,
            "architectures": ["SmolLM3ForCausalLM"],
            "model_type": "smollm3",
            **sizes(2048, 36, 16, 4, 11008, 128256),
            "attention_bias": False,
            "hidden_act": "silu",
            "layer_types": [FULL] * 36,
            "max_position_embeddings": 65536,
            "max_window_layers": 28,
            "mlp_bias": False,
            "no_rope_layer_interval": 4,
            "no_rope_layers": SMOLLM3_ROTATED,
            "pretraining_tp": 2,
            "rms_norm_eps": 1e-06,
            "rope_scaling": None,
            "rope_theta": 5000000.0,
            "sliding_window": None,
            "use_sliding_window": False,
        },
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


@pytest.mark.parametrize(("config", "head_dim", "eps", "ropes", "special"), PUBLISHED.values(), ids=PUBLISHED)
def test_a_published_config_gives_the_decoder_it_means(config, head_dim, eps, ropes, special):
    assert decoder_config(config) == DecoderConfig(**{**plain_llama(config, head_dim, eps, ropes), **special})


# What transformers 5 writes in the place of the keys of transformers 4.
RESPELLED = {
    "llama3_2-1b_instruct": {"rope_parameters": {"rope_theta": 500000.0, **llama3_2()["rope_scaling"]}},
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
    old = PUBLISHED[name][0]
    kept = {key: value for key, value in old.items() if key not in OLD_KEYS}
    new = {**kept, "dtype": "bfloat16", "transformers_version": "5.0.0", **RESPELLED[name]}
    assert decoder_config(new) == decoder_config(old)
