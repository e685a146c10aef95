"""This module checks and writes the canonical checkpoint: one safetensors file with Hugging Face's names and shapes."""

import json
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from hexport.checkpoints.tensor import NUMPY_TYPES, Tensor, equal
from hexport.decoder.config import decoder_config
from hexport.decoder.tensors import tensor_shapes
from hexport.errors import HexportError
from hexport.provenance import atomic_path

LARGEST = 65504.0  # the largest float16, the NPU's own type: no trained model has larger weights
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def check_tensors(tensors: Iterable[Tensor], config: dict, where: str) -> list[Tensor]:
    """Return the tensors in the order of the forward pass, without a copy of the embedding that serves as a tied head.

    `where` names the checkpoint in errors. Raises HexportError where a tensor is missing, surplus or misshapen, where
    the config ties the head to the embedding but their values differ, and for a config that is not supported.
    """
    expected = tensor_shapes(decoder_config(config, where))
    found = {tensor.name: tensor for tensor in tensors}
    for name, shape in expected.items():
        if name not in found:
            raise HexportError(f"{where}: tensor {name} is missing: expected shape {list(shape)}, found none")
        if found[name].shape != shape:
            raise HexportError(f"{where}: tensor {name}: expected shape {list(shape)}, found {list(found[name].shape)}")
    if HEAD in found and HEAD not in expected and not equal(found.pop(HEAD), found[EMBEDDING]):
        raise HexportError(
            f"{where}: the config ties {HEAD} to {EMBEDDING}, but their values differ; "
            "set tie_word_embeddings to false or remove one"
        )
    for name, tensor in found.items():
        if name not in expected:
            raise HexportError(
                f"{where}: tensor {name} is surplus: expected none by its config, found shape {list(tensor.shape)}"
            )
    return [found[name] for name in expected]


def write_safetensors(path: Path, tensors: list[Tensor], where: str) -> None:
    """Write tensors one block at a time in the safetensors format (https://github.com/huggingface/safetensors#format).

    Raises HexportError, and leaves no file, where a value is not finite or its magnitude is beyond LARGEST, and where a
    matrix is all zeros: such a checkpoint was not written whole, or was never trained.
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
            largest = 0.0
            for block in tensor.blocks():
                largest = max(largest, found := _largest(block))
                if not found <= LARGEST:
                    what = f"a value of {found:.3g}" if math.isfinite(found) else "NaN or infinity"
                    limit = f", beyond the {LARGEST:.0f} of half precision" if math.isfinite(found) else ""
                    raise HexportError(f"{where}: tensor {tensor.name} holds {what}{limit}")
                file.write(np.ascontiguousarray(block).data)
            if largest == 0 and len(tensor.shape) == 2:
                raise HexportError(f"{where}: tensor {tensor.name} is all zeros; fetch or save the checkpoint again")


def _largest(block: np.ndarray) -> float:
    """Return the largest magnitude in a block, or NaN where the block holds one."""
    if block.dtype == NUMPY_TYPES["BF16"]:
        # Without the sign bit, the bits are in the order of the magnitudes, and NaN is the largest.
        return float(np.array(np.max(block & 0x7FFF) << np.uint32(16), np.uint32).view(np.float32))
    return float(np.abs(block).max())
