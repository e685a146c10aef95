"""This module turns the metadata of a GGUF file into a Hugging Face config. Absent keys have llama.cpp's defaults."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType

from hexport.checkpoints.gguf_architectures import Architecture
from hexport.checkpoints.gguf_file import GgufFile, GgufTensor
from hexport.checkpoints.meta_params import llama3_scaling
from hexport.decoder.layer_kinds import MAX_LAYERS
from hexport.errors import HexportError

# Config key -> the metadata key below `<architecture>.` that every architecture may have. Any other metadata key could
# change what the model computes.
KEYS = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
    "max_position_embeddings": "context_length",
    "vocab_size": "vocab_size",
}
DECIMALS = {"rms_norm_eps", "rope_theta"}  # the others are whole numbers
OPTIONAL_KEYS = {"num_key_value_heads", "head_dim", "rope_theta", "vocab_size"}
OTHER_KEYS = ("attention.value_length", "rope.dimension_count", "rope.scaling.type", "rope.scaling.factor")
TOKEN_KEYS = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "pad_token_id": "padding_token_id"}
FREQUENCIES = "rope_freqs.weight"
LONG_FACTORS, SHORT_FACTORS = "rope_factors_long.weight", "rope_factors_short.weight"
ROPE_TENSORS = {"llama": {FREQUENCIES}, "phi3": {LONG_FACTORS, SHORT_FACTORS}}  # they become rope_scaling
GEMMA3_FULL_LAYERS = 6  # every sixth layer is not a sliding one: src/models/gemma3.cpp
GEMMA3_27B_LAYERS = 62  # the one size whose attention is not scaled by head_dim: src/models/gemma3.cpp
SMOLLM3_UNROTATED_LAYERS = 4  # every fourth layer has no rotary embeddings: src/models/smollm3.cpp


@dataclass(frozen=True)
class Keys:
    """An instance reads the metadata keys of a file that begin with `<architecture>.`.

    Its methods take the rest of a key: `embedding_length` stands for `llama.embedding_length`.
    """

    file: GgufFile
    architecture: str

    def number(self, key: str, default: float | None = None) -> float | None:
        """Return a finite number of at least 0, or `default` where the key is absent.

        Raises HexportError for another value.
        """
        found = self.file.metadata.get(f"{self.architecture}.{key}", default)
        if found is not None and not (type(found) in (int, float) and 0 <= found < math.inf):
            shown = self.file.shown(f"{self.architecture}.{key}")
            raise HexportError(f"{self.name(key)} = {shown}: expected one positive number")
        return found

    def integer(self, key: str, default: int | None = None) -> int | None:
        """Return a whole number of at least 0, or `default` where the key is absent.

        Raises HexportError for another value.
        """
        found = self.number(key, default)
        if found is not None and type(found) is not int:
            raise HexportError(f"{self.name(key)} = {found!r}: expected a whole number")
        return found

    def name(self, key: str) -> str:
        """Return the file and the whole key, as an error names them."""
        return f"{self.file.path}: metadata key {self.architecture}.{key}"


def gguf_config(file: GgufFile, architecture: Architecture) -> dict:
    """Return the config of a GGUF file, in the form of a Hugging Face config.json.

    Raises HexportError for a metadata key that is unknown or missing, or has a value that the family cannot have.
    """
    name = file.text("general.architecture")
    known = {f"{name}.{key}" for key in (*KEYS.values(), *OTHER_KEYS, *architecture.keys)}
    for key in file.metadata:
        if key.startswith(f"{name}.") and key not in known:
            raise HexportError(f"{file.path}: metadata key {key} = {file.shown(key)} is not supported")
    keys = Keys(file, name)
    config = _sizes(keys)
    biased = {tensor.name for tensor in file.tensors if tensor.name.endswith(".bias")}
    config |= {
        "model_type": architecture.model_type,
        "architectures": [architecture.class_name],
        "tie_word_embeddings": all(tensor.name != "output.weight" for tensor in file.tensors),
        **{key: any(n.startswith(f"blk.0.{part}") for n in biased) for key, part in architecture.bias_keys.items()},
        **architecture.fixed,
        **{key: file.integer(f"tokenizer.ggml.{gguf}") for key, gguf in TOKEN_KEYS.items()},
        "rope_scaling": _rope_scaling(keys, config),
    }
    match architecture.model_type:
        case "gemma3_text":
            config |= _gemma3(keys, config)
        case "phi3":
            config |= _phi3(keys, config)
        case "smollm3":
            n = config["num_hidden_layers"]
            config["no_rope_layers"] = [int((i + 1) % SMOLLM3_UNROTATED_LAYERS != 0) for i in range(n)]
    return {key: value for key, value in config.items() if value is not None}


def _sizes(keys: Keys) -> dict:
    config = {key: (keys.number if key in DECIMALS else keys.integer)(gguf) for key, gguf in KEYS.items()}
    for key, found in config.items():
        if found is None and key not in OPTIONAL_KEYS:
            raise HexportError(f"{keys.name(KEYS[key])} is missing")
        if found == 0:
            raise HexportError(f"{keys.name(KEYS[key])} = 0: expected one positive number")
    if (layers := config["num_hidden_layers"]) > MAX_LAYERS:
        raise HexportError(f"{keys.name('block_count')} = {layers}: more than {MAX_LAYERS}; the file is damaged")
    embedding = next((tensor for tensor in keys.file.tensors if tensor.name == "token_embd.weight"), None)
    if embedding is None:
        raise HexportError(f"{keys.file.path}: tensor token_embd.weight is missing")
    defaults = {
        "num_key_value_heads": config["num_attention_heads"],
        "head_dim": config["hidden_size"] // config["num_attention_heads"],
        "rope_theta": 10000.0,
        "vocab_size": embedding.shape[0],
    }
    config |= {key: default for key, default in defaults.items() if config[key] is None}
    for key in DECIMALS:
        config[key] = _decimal(config[key])
    if not (head_dim := config["head_dim"]):
        raise HexportError(f"{keys.name('embedding_length')} is smaller than attention.head_count")
    for key in ("attention.value_length", "rope.dimension_count"):
        found = keys.integer(key, head_dim)
        if found != head_dim and not (key == "rope.dimension_count" and keys.architecture == "phi3"):
            raise HexportError(f"{keys.name(key)} is {found}, but head_dim is {head_dim}; not supported")
    return config


def _gemma3(keys: Keys, config: dict) -> dict:
    if not (window := keys.integer("attention.sliding_window")):
        raise HexportError(f"{keys.name('attention.sliding_window')} is {window!r}; expected a size")
    n = config["num_hidden_layers"]
    scalar = config["head_dim"] if n != GEMMA3_27B_LAYERS else config["hidden_size"] // config["num_attention_heads"]
    return {
        "sliding_window": window,
        "layer_types": ["sliding_attention" if (i + 1) % GEMMA3_FULL_LAYERS else "full_attention" for i in range(n)],
        "rope_local_base_freq": _decimal(keys.number("rope.freq_base_swa", 10000.0)),
        "query_pre_attn_scalar": scalar,
    }


def _phi3(keys: Keys, config: dict) -> dict:
    return {
        "partial_rotary_factor": keys.integer("rope.dimension_count", config["head_dim"]) / config["head_dim"],
        "sliding_window": keys.integer("attention.sliding_window") or None,  # 0 says none
        "original_max_position_embeddings": keys.integer("rope.scaling.original_context_length"),
    }


def _rope_scaling(keys: Keys, config: dict) -> dict | None:
    """Return rope_scaling from metadata and from the tensors that hold frequencies, or None where neither scales."""
    kind = keys.file.text(f"{keys.architecture}.rope.scaling.type", "none")
    factor = keys.number("rope.scaling.factor")
    names = ROPE_TENSORS.get(keys.architecture, ())
    tensors = {tensor.name: _factors(tensor, keys.file.path) for tensor in keys.file.tensors if tensor.name in names}
    if kind == "linear" and factor and not tensors:
        return {"rope_type": "linear", "factor": _decimal(factor)}
    if kind not in ("none", "longrope") or (kind == "longrope" and LONG_FACTORS not in tensors):
        raise HexportError(f"{keys.name('rope.scaling.type')} = {kind!r} is not supported in this file")
    if FREQUENCIES in tensors:
        return _llama3(tensors[FREQUENCIES], config, keys.file.path)
    return _longrope(tensors, keys, config) if tensors else None


def _factors(tensor: GgufTensor, path: Path) -> np.ndarray:
    if tensor.kind != GGMLQuantizationType.F32 or len(tensor.shape) != 1:
        shown = f"type {tensor.kind.name} and shape {list(tensor.shape)}"
        raise HexportError(f"{path}: tensor {tensor.name} has {shown}; expected a vector of type F32")
    factors = np.fromfile(path, "<f4", tensor.shape[0], offset=tensor.offset).astype(np.float64)
    if not (np.isfinite(factors) & (factors > 0)).all():
        raise HexportError(f"{path}: tensor {tensor.name} holds other than positive numbers")
    return factors


def _llama3(ratios: np.ndarray, config: dict, path: Path) -> dict:
    """Return the rope_scaling of Llama 3.1 and later. The file says only by how much each frequency is divided."""
    scaling = llama3_scaling(_decimal(ratios.max(initial=1.0)))
    original, dims = scaling["original_max_position_embeddings"], config["head_dim"]
    turns = original * config["rope_theta"] ** -(np.arange(0, dims, 2) / dims) / (2 * math.pi)
    smooth = np.clip((turns - 1.0) / (4.0 - 1.0), 0, 1)
    expected = 1 / ((1 - smooth) / scaling["factor"] + smooth)
    if ratios.shape != expected.shape or not np.allclose(ratios, expected, rtol=1e-4):
        raise HexportError(
            f"{path}: tensor {FREQUENCIES} is not that of Llama 3's scaled rotary frequencies with original context "
            f"{original}; convert from the original checkpoint"
        )
    return scaling


def _longrope(tensors: dict[str, np.ndarray], keys: Keys, config: dict) -> dict:
    """Return the rope_scaling of Phi: divisors for each frequency, and a factor on cosines and sines."""
    original = keys.integer("rope.scaling.original_context_length", 0)
    attention_factor = keys.number("rope.scaling.attn_factor")
    if len(tensors) != 2 or original < 2 or not attention_factor:
        raise HexportError(
            f"{keys.file.path}: {LONG_FACTORS}, {SHORT_FACTORS}, phi3.rope.scaling.original_context_length and "
            "attn_factor belong together, but some are missing"
        )
    scaling = {
        "rope_type": "longrope",
        "long_factor": [_decimal(factor) for factor in tensors[LONG_FACTORS]],
        "short_factor": [_decimal(factor) for factor in tensors[SHORT_FACTORS]],
    }
    # The factor is left out where it follows from the config, which gives it more digits.
    scale = config["max_position_embeddings"] / original
    usual = math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0
    if not math.isclose(attention_factor, usual, rel_tol=1e-6):
        scaling["attention_factor"] = _decimal(attention_factor)
    return scaling


def _decimal(value: float) -> float:
    """Return the shortest decimal that stands for this float32: 1e-05, not 9.999999747378752e-06."""
    with np.errstate(over="ignore"):  # a config with infinity is refused
        return float(str(np.float32(value)))
