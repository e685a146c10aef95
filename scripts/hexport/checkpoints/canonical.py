"""The canonical checkpoint: Hugging Face names, shapes and config, in one safetensors file written as a stream."""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hexport.errors import HexportError
from hexport.provenance import atomic_path

BLOCK_BYTES = 4 << 20  # what is read, converted and written at a time
NUMPY_TYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}


@dataclass(frozen=True)
class Family:
    """Which tensors a model_type has, and what their dimensions are called: data, from which shapes follow.

    `layer` names lack the prefix `model.layers.<i>.`. `biases` maps a part of a layer to the config key that gives
    its projections biases.
    """

    first: dict[str, tuple[str, ...]]
    layer: dict[str, tuple[str, ...]]
    last: dict[str, tuple[str, ...]]
    biases: dict[str, str]


LLAMA = Family(
    first={"model.embed_tokens.weight": ("vocab", "hidden")},
    layer={
        "input_layernorm.weight": ("hidden",),
        "self_attn.q_proj.weight": ("q", "hidden"),
        "self_attn.k_proj.weight": ("kv", "hidden"),
        "self_attn.v_proj.weight": ("kv", "hidden"),
        "self_attn.o_proj.weight": ("hidden", "q"),
        "post_attention_layernorm.weight": ("hidden",),
        "mlp.gate_proj.weight": ("ffn", "hidden"),
        "mlp.up_proj.weight": ("ffn", "hidden"),
        "mlp.down_proj.weight": ("hidden", "ffn"),
    },
    last={"model.norm.weight": ("hidden",), "lm_head.weight": ("vocab", "hidden")},
    biases={"self_attn": "attention_bias", "mlp": "mlp_bias"},
)
FAMILIES = {"llama": LLAMA}  # model_type of config.json -> family


@dataclass(frozen=True)
class Tensor:
    """A tensor that is read block by block: rows in order, never all of them in memory.

    `dtype` is F32, F16 or BF16; blocks are arrays of the numpy type of the same width (BF16 as uint16 bits).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    blocks: Callable[[], Iterator[np.ndarray]]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * NUMPY_TYPES[self.dtype].itemsize


def expected_shapes(config: dict, where: str) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that a Hugging Face config asks for, in the order of the forward pass.

    Raises HexportError for an unknown model_type and for sizes that are missing or not positive integers.
    """
    if (family := FAMILIES.get(config.get("model_type"))) is None:
        known = ", ".join(FAMILIES)
        raise HexportError(f"{where}: model_type is {config.get('model_type')!r}; supported: {known}")

    def size(key: str, default: int | None = None) -> int:
        value = config.get(key) if config.get(key) is not None else default
        if type(value) is not int or value < 1:
            raise HexportError(f"{where}: {key} must be a positive integer, found {config.get(key)!r}")
        return value

    hidden, heads = size("hidden_size"), size("num_attention_heads")
    head_dim = size("head_dim", hidden // heads)
    sizes = {
        "vocab": size("vocab_size"),
        "hidden": hidden,
        "ffn": size("intermediate_size"),
        "q": heads * head_dim,
        "kv": size("num_key_value_heads", heads) * head_dim,
    }
    names = dict(family.first)
    for i in range(size("num_hidden_layers")):
        for name, dimensions in family.layer.items():
            names[f"model.layers.{i}.{name}"] = dimensions
            if name.endswith("_proj.weight") and config.get(family.biases[name.split(".")[0]]):
                names[f"model.layers.{i}.{name.removesuffix('weight')}bias"] = dimensions[:1]
    names |= family.last
    if config.get("tie_word_embeddings"):
        del names["lm_head.weight"]
    return {name: tuple(sizes[dimension] for dimension in dimensions) for name, dimensions in names.items()}


def check_tensors(tensors: Iterable[Tensor], config: dict, where: str) -> list[Tensor]:
    """Tensors in the order of the forward pass. Raises HexportError where one is missing, surplus or misshapen."""
    expected = expected_shapes(config, where)
    found = {tensor.name: tensor for tensor in tensors}
    for name, shape in expected.items():
        if name not in found:
            raise HexportError(f"{where}: tensor {name} is missing: expected shape {list(shape)}, found none")
        if found[name].shape != shape:
            raise HexportError(f"{where}: tensor {name}: expected shape {list(shape)}, found {list(found[name].shape)}")
    for name, tensor in found.items():
        if name not in expected:
            raise HexportError(
                f"{where}: tensor {name} is surplus: expected none by its config, found shape {list(tensor.shape)}"
            )
    return [found[name] for name in expected]


def write_safetensors(path: Path, tensors: list[Tensor], where: str) -> None:
    """Write tensors as a stream in the safetensors format (https://github.com/huggingface/safetensors#format).

    Raises HexportError, and leaves no file, where a value is not finite.
    """
    # Widest type first, as the safetensors library does: every tensor is then aligned to its own type.
    tensors = sorted(tensors, key=lambda tensor: -NUMPY_TYPES[tensor.dtype].itemsize)
    header: dict = {"__metadata__": {"format": "pt"}}  # transformers refuses files without it
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.nbytes
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            for block in tensor.blocks():
                if not _is_finite(block, tensor.dtype):
                    raise HexportError(f"{where}: tensor {tensor.name} holds NaN or infinity")
                file.write(np.ascontiguousarray(block).data)


def read_blocks(path: Path, offset: int, nbytes: int, block_bytes: int) -> Iterator[np.ndarray]:
    """Bytes `offset` to `offset + nbytes` of a file as uint8 arrays of `block_bytes`, the last one shorter.

    Reads rather than maps the file: pages of a mapping would count as this process's memory.
    Raises HexportError where the file ends early.
    """
    with open(path, "rb", buffering=0) as file:
        file.seek(offset)
        for start in range(0, nbytes, block_bytes):
            block = np.fromfile(file, np.uint8, min(block_bytes, nbytes - start))
            if block.size != min(block_bytes, nbytes - start):
                raise HexportError(f"{path}: the file ends early; fetch or copy it again")
            yield block


def _is_finite(block: np.ndarray, dtype: str) -> bool:
    exponent = np.uint16(0x7F80)  # all ones: NaN or infinity
    return bool(((block & exponent) != exponent).all() if dtype == "BF16" else np.isfinite(block).all())
