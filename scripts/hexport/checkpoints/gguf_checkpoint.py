"""Reads the weights and the config of a GGUF file as a canonical checkpoint.

Names and conventions: llama.cpp's convert_hf_to_gguf.py and gguf-py/gguf/constants.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader
from gguf.constants import GGML_QUANT_SIZES
from gguf.gguf_reader import ReaderTensor
from gguf.quants import dequantize

from hexport.checkpoints.canonical import BLOCK_BYTES, NUMPY_TYPES, Tensor, read_blocks
from hexport.checkpoints.gguf_file import HeaderReader, metadata, open_gguf
from hexport.errors import HexportError


@dataclass(frozen=True)
class Architecture:
    """How a GGUF architecture maps to a Hugging Face model_type.

    `permuted` are layer tensors whose rows llama.cpp reorders in each head, from rotate-half to interleaved pairs.
    `defaults` are config keys that the architecture fixes.
    """

    model_type: str
    tensors: dict[str, str]
    layer_tensors: dict[str, str]
    permuted: frozenset[str]
    defaults: dict[str, object]


LLAMA = Architecture(
    model_type="llama",
    tensors={"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"},
    layer_tensors={
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    },
    permuted=frozenset({"attn_q", "attn_k"}),
    defaults={"architectures": ["LlamaForCausalLM"], "hidden_act": "silu"},
)
ARCHITECTURES = {"llama": LLAMA}  # general.architecture -> architecture

# Metadata below `<architecture>.` that is understood. Any other key may change what the model computes.
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
OPTIONAL_KEYS = {"num_key_value_heads", "head_dim", "rope_theta", "vocab_size"}
HEAD_DIM_KEYS = ("attention.value_length", "rope.dimension_count")  # must say the same as head_dim
TOKEN_KEYS = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "pad_token_id": "padding_token_id"}
RAW_TYPES = {GGMLQuantizationType.F32: "F32", GGMLQuantizationType.F16: "F16", GGMLQuantizationType.BF16: "BF16"}


def read_gguf(path: Path) -> tuple[dict, list[Tensor]]:
    """Config and tensors of a GGUF file; quantised tensors become float32, F32, F16 and BF16 stay as they are.

    Raises HexportError for an architecture, a metadata key, a tensor or a type that is not known.
    """
    file = open_gguf(path, HeaderReader)
    name = metadata(file, "general.architecture")
    if (architecture := ARCHITECTURES.get(name)) is None:
        raise HexportError(
            f"{path}: GGUF architecture {name!r} is not supported; supported: {', '.join(ARCHITECTURES)}"
        )
    config = _config(file, name, architecture, path)
    names = {
        f"{gguf}.{kind}": f"{hf}.{kind}" for gguf, hf in architecture.tensors.items() for kind in ("weight", "bias")
    }
    for i in range(config["num_hidden_layers"]):
        for gguf, hf in architecture.layer_tensors.items():
            names |= {f"blk.{i}.{gguf}.{kind}": f"model.layers.{i}.{hf}.{kind}" for kind in ("weight", "bias")}
    tensors = []
    for entry in file.tensors:
        if entry.name == "rope_freqs.weight":
            raise HexportError(f"{path}: tensor rope_freqs.weight: scaled rotary frequencies are not supported")
        if entry.name not in names:
            raise HexportError(f"{path}: tensor {entry.name} is unknown in architecture {name!r}")
        permuted = entry.name.split(".")[-2] in architecture.permuted
        tensors.append(_tensor(path, entry, names[entry.name], config["head_dim"] if permuted else None))
    config["dtype"] = _widest({tensor.dtype for tensor in tensors})
    return config, tensors


def _config(file: GGUFReader, name: str, architecture: Architecture, path: Path) -> dict:
    """Hugging Face config from the metadata, with llama.cpp's defaults for what is absent."""
    known = {f"{name}.{key}" for key in (*KEYS.values(), *HEAD_DIM_KEYS)}
    for key in file.fields:
        if key.startswith(f"{name}.") and key not in known:
            raise HexportError(f"{path}: metadata key {key} = {metadata(file, key)!r} is not supported")
    shapes = {entry.name: _shape(entry) for entry in file.tensors}
    config = {key: metadata(file, f"{name}.{gguf}") for key, gguf in KEYS.items()}
    for key, value in config.items():
        if value is None and key not in OPTIONAL_KEYS:
            raise HexportError(f"{path}: metadata key {name}.{KEYS[key]} is missing")
        if value is not None and not (isinstance(value, int | float) and value > 0):
            raise HexportError(f"{path}: metadata key {name}.{KEYS[key]} = {value!r}: expected one positive number")
    if "token_embd.weight" not in shapes:
        raise HexportError(f"{path}: tensor token_embd.weight is missing")
    defaults = {
        "num_key_value_heads": config["num_attention_heads"],
        "head_dim": config["hidden_size"] // config["num_attention_heads"],
        "rope_theta": 10000.0,
        "vocab_size": shapes["token_embd.weight"][0],
    }
    config |= {key: value for key, value in defaults.items() if config[key] is None}
    for key in HEAD_DIM_KEYS:
        if (value := metadata(file, f"{name}.{key}", config["head_dim"])) != config["head_dim"]:
            raise HexportError(f"{path}: {name}.{key} is {value}, but head_dim is {config['head_dim']}; not supported")
    for key in ("rms_norm_eps", "rope_theta"):
        config[key] = float(str(np.float32(config[key])))  # 1e-05, not 9.999999747378752e-06
    config |= {
        "model_type": architecture.model_type,
        "attention_bias": any(x.startswith("blk.0.attn_") and x.endswith(".bias") for x in shapes),
        "mlp_bias": any(x.startswith("blk.0.ffn_") and x.endswith(".bias") for x in shapes),
        "tie_word_embeddings": "output.weight" not in shapes,
        **architecture.defaults,
        **{key: metadata(file, f"tokenizer.ggml.{gguf}") for key, gguf in TOKEN_KEYS.items()},
    }
    return {key: value for key, value in config.items() if value is not None}


def _tensor(path: Path, entry: ReaderTensor, name: str, head_dim: int | None) -> Tensor:
    """A GGUF tensor under its canonical name; `head_dim` is given where its rows are to be un-permuted."""
    shape, kind = _shape(entry), entry.tensor_type
    dtype = RAW_TYPES.get(kind, "F32")
    if kind not in RAW_TYPES and not (len(shape) == 2 and _dequantises(kind)):
        raise HexportError(f"{path}: tensor {entry.name} of shape {list(shape)} has type {kind.name}: not supported")

    def blocks() -> Iterator[np.ndarray]:
        row_bytes = entry.n_bytes // shape[0]
        rows = max(1, BLOCK_BYTES // 4 * shape[0] // entry.n_elements)
        if head_dim:
            rows = max(1, rows // head_dim) * head_dim
        for block in read_blocks(path, entry.data_offset, entry.n_bytes, rows * row_bytes):
            if kind in RAW_TYPES:
                block = block.view(NUMPY_TYPES[dtype])
            else:
                with np.errstate(invalid="ignore", over="ignore"):  # the writer refuses what is not finite
                    block = dequantize(block.reshape(-1, row_bytes), kind)
            yield _unpermute(block.reshape(-1, *shape[1:]), head_dim) if head_dim else block

    return Tensor(name, dtype, shape, blocks)


def _unpermute(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows of whole heads from llama.cpp's order (pair by pair) to Hugging Face's (first halves, second halves).

    The inverse of LlamaModel.permute in llama.cpp's convert_hf_to_gguf.py.
    """
    heads = rows.reshape(-1, head_dim // 2, 2, *rows.shape[1:])
    return heads.swapaxes(1, 2).reshape(rows.shape)


def _dequantises(kind: GGMLQuantizationType) -> bool:
    """Whether the gguf package can dequantise a type: it tells only when asked to."""
    try:
        dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return True


def _shape(entry: ReaderTensor) -> tuple[int, ...]:
    """Rows first: GGUF stores the fastest dimension first."""
    return tuple(int(size) for size in reversed(entry.shape))


def _widest(dtypes: set[str]) -> str:
    """The torch dtype that holds every tensor without loss."""
    names = {"F16": "float16", "BF16": "bfloat16"}
    return names.get(dtypes.pop(), "float32") if len(dtypes) == 1 else "float32"
