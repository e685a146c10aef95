"""Small random models of every family, and GGUF files of them as llama.cpp's converter writes them."""

import math

import numpy as np
import torch
from gguf import MODEL_ARCH_NAMES, GGMLQuantizationType, GGUFWriter, get_tensor_name_map
from gguf.quants import dequantize, quantize
from transformers import AutoConfig, AutoModelForCausalLM

ARCHITECTURES = {"gemma3_text": "gemma3"}  # model_type -> general.architecture, where they differ
MODEL_ARCHS = {name: arch for arch, name in MODEL_ARCH_NAMES.items()}

SIZES = {
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 7,
    "vocab_size": 160,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-4,
    "pad_token_id": 0,
}
FAMILIES = {
    "llama": {"head_dim": 32, "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}},
    "gemma": {"head_dim": 32},
    "gemma3_text": {
        "head_dim": 32,
        "sliding_window": 8,
        "query_pre_attn_scalar": 32,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 50000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
    },
    "phi3": {
        "original_max_position_embeddings": 16,
        "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.75,
            "short_factor": [1.0 + i / 8 for i in range(6)],
            "long_factor": [1.0 + i / 4 for i in range(6)],
        },
    },
    "qwen2": {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}},
    "qwen3": {"head_dim": 32, "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}},
    "smollm3": {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}},
}


def tiny(model_type, **changes):
    """A random model. Norms are multiples of 1/1024: what llama.cpp adds to them then comes off without rounding."""
    config = AutoConfig.for_model(model_type, **{**SIZES, **FAMILIES[model_type], **changes})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
            if parameter.ndim == 1:
                parameter.copy_((parameter * 1024).round() / 1024)
    return model


def permute(weights: np.ndarray, heads: int) -> np.ndarray:
    """LlamaModel.permute of llama.cpp's conversion/llama.py."""
    pairs = weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
    return pairs.swapaxes(1, 2).reshape(weights.shape)


def converter_keys(config) -> dict:
    """What set_gguf_parameters of llama.cpp's converter writes for each family."""
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    keys = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
    }
    if config.model_type != "gemma":
        keys["rope.freq_base"] = rope["rope_theta"]
    if config.model_type not in ("phi3", "qwen2"):
        keys |= {"attention.key_length": head_dim, "attention.value_length": head_dim}
    if config.model_type in ("llama", "smollm3"):
        keys |= {"vocab_size": config.vocab_size, "rope.dimension_count": head_dim}
    if config.model_type == "gemma3_text":
        keys["attention.sliding_window"] = config.sliding_window
    if config.model_type == "phi3":
        original = config.original_max_position_embeddings
        keys |= {
            "rope.dimension_count": int(rope["partial_rotary_factor"] * head_dim),
            "rope.scaling.original_context_length": original,
            "attention.sliding_window": config.sliding_window or 0,
        }
        if "long_factor" in rope:
            scale = config.max_position_embeddings / original
            keys["rope.scaling.attn_factor"] = math.sqrt(1 + math.log(scale) / math.log(original))
            keys["rope.scaling.type"] = "longrope"
    if rope["rope_type"] == "linear":
        keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": rope["factor"]}
    return keys


def rope_tensors(config) -> list[tuple[str, np.ndarray]]:
    """What generate_extra_tensors of llama.cpp's converter writes."""
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    if rope["rope_type"] == "longrope":
        return [(f"rope_factors_{x}.weight", np.array(rope[f"{x}_factor"], np.float32)) for x in ("long", "short")]
    if rope["rope_type"] != "llama3":
        return []
    factors = []
    for frequency in 1.0 / (rope["rope_theta"] ** (torch.arange(0, config.head_dim, 2).float() / config.head_dim)):
        wavelength, smooth = 2 * math.pi / frequency, (8192 / (2 * math.pi / frequency) - 1.0) / (4.0 - 1.0)
        if wavelength < 8192 / 4.0:
            factors.append(1)
        elif wavelength > 8192 / 1.0:
            factors.append(rope["factor"])
        else:
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return [("rope_freqs.weight", torch.tensor(factors).numpy())]


def write_gguf(path, model, kind=GGMLQuantizationType.F32, metadata=(), drop=(), extra=(), arch=None, **changes):
    """Write a model; matrices become `kind` and the model's own weights become what the file then holds.

    `changes` replace metadata below the architecture's name; a metadata value of None leaves the key out.
    """
    config = model.config
    own_arch = ARCHITECTURES.get(config.model_type, config.model_type)
    arch = arch or own_arch
    writer = GGUFWriter(path, arch)
    changed = {key.replace("__", "."): value for key, value in changes.items()}
    values = {f"{arch}.{key}": value for key, value in {**converter_keys(config), **changed}.items()}
    for key, value in [("tokenizer.ggml.padding_token_id", config.pad_token_id), *values.items(), *metadata]:
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string, list: writer.add_array}
        if value is not None:
            add[type(value)](key, value)
    gguf_names = get_tensor_name_map(MODEL_ARCHS[own_arch], config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    if config.model_type not in ("llama", "smollm3"):
        heads = {}
    for name, parameter in model.named_parameters():
        gguf_name = gguf_names.get_name(name, try_suffixes=(".weight", ".bias"))
        if gguf_name in drop:
            continue
        array = parameter.detach().numpy()
        if (part := name.split(".")[-2]) in heads:
            array = permute(array, heads[part])
        if config.model_type.startswith("gemma") and name.endswith("norm.weight"):
            array = array + 1
        if array.ndim == 1:
            writer.add_tensor(gguf_name, np.ascontiguousarray(array))
            continue
        packed = quantize(np.ascontiguousarray(array), kind)
        writer.add_tensor(gguf_name, packed, raw_dtype=kind)
        restored = dequantize(packed, kind)
        if part in heads:
            restored = restored.reshape(heads[part], -1, 2, config.hidden_size).swapaxes(1, 2).reshape(array.shape)
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(np.array(restored)))
    for name, array in [*(tensor for tensor in rope_tensors(config) if tensor[0] not in drop), *extra]:
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
