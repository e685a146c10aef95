"""This module reads the weights and the config of a GGUF file as a canonical checkpoint."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize

from hexport.checkpoints.files import PublishedCheckpoint
from hexport.checkpoints.gguf_architectures import ARCHITECTURES, TENSORS, Architecture
from hexport.checkpoints.gguf_config import ROPE_TENSORS, gguf_config
from hexport.checkpoints.gguf_file import GgufTensor, open_gguf
from hexport.checkpoints.tensor import NUMPY_TYPES, Tensor, half_split, read_blocks, rows_per_block, stored, torch_dtype
from hexport.errors import HexportError


def read_gguf(checkpoint: PublishedCheckpoint) -> tuple[dict, list[Tensor]]:
    """Return the config and the tensors of a GGUF file; the tensors stay on disk.

    Tensors of type F32, F16 and BF16 keep their type, and quantised ones become float32. Raises HexportError for an
    architecture, a metadata key, a tensor or a type that is not known.
    """
    path = checkpoint.weights[0]
    file = open_gguf(path)
    name = file.text("general.architecture")
    if (architecture := ARCHITECTURES.get(name)) is None:
        known = ", ".join(ARCHITECTURES)
        raise HexportError(f"{path}: GGUF architecture {name!r} is not supported; supported: {known}")
    config = gguf_config(file, architecture)
    names = _names(architecture, config["num_hidden_layers"])
    tensors = []
    for entry in file.tensors:
        if entry.name in ROPE_TENSORS.get(name, ()):
            continue
        if entry.name not in names:
            raise HexportError(f"{path}: tensor {entry.name} is unknown in architecture {name!r}")
        tensor = replace(_tensor(path, entry), name=names[entry.name])
        if architecture.permuted and entry.name.split(".")[-2] in ("attn_q", "attn_k"):
            tensor = half_split(tensor, config["head_dim"])
        if architecture.norm_offset and tensor.name.endswith("norm.weight"):
            tensor = _without_offset(tensor, architecture.norm_offset, path)
        tensors.append(tensor)
    config["dtype"] = torch_dtype(tensors)
    return config, tensors


def _names(architecture: Architecture, layers: int) -> dict[str, str]:
    """Return Hugging Face's name by GGUF's name, for every tensor that a file may have."""
    parts = dict(TENSORS)
    for i in range(layers):
        parts |= {f"blk.{i}.{gguf}": f"model.layers.{i}.{hf}" for gguf, hf in architecture.layer_tensors.items()}
    return {f"{gguf}.{kind}": f"{hf}.{kind}" for gguf, hf in parts.items() for kind in ("weight", "bias")}


def _tensor(path: Path, entry: GgufTensor) -> Tensor:
    shape, kind = entry.shape, entry.kind
    if kind.name in NUMPY_TYPES:
        return stored(entry.name, path, entry.offset, kind.name, shape)
    if len(shape) != 2 or not _dequantises(kind):
        raise HexportError(f"{path}: tensor {entry.name} of shape {list(shape)} has type {kind.name}: not supported")

    def read(multiple: int) -> Iterator[np.ndarray]:
        row_bytes, rows = entry.nbytes // shape[0], rows_per_block(4 * shape[1], multiple)
        for block in read_blocks(path, entry.offset, entry.nbytes, rows * row_bytes):
            with np.errstate(invalid="ignore", over="ignore"):  # write_safetensors refuses what is not finite
                yield dequantize(block.reshape(-1, row_bytes), kind)

    return Tensor(entry.name, "F32", shape, read)


def _without_offset(tensor: Tensor, offset: float, path: Path) -> Tensor:
    """Return a norm's weight as Hugging Face stores it. llama.cpp keeps norms in float32."""
    if tensor.dtype != "F32":
        raise HexportError(f"{path}: tensor {tensor.name} has type {tensor.dtype}; expected F32 as in every norm")
    return replace(tensor, read=lambda multiple: (block - np.float32(offset) for block in tensor.read(multiple)))


def _dequantises(kind: GGMLQuantizationType) -> bool:
    """Tell whether the gguf package can dequantise a type. The only way to know is to try."""
    try:
        dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return True
