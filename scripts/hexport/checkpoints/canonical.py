"""The canonical checkpoint: Hugging Face names, shapes and config, in one safetensors file written as a stream."""

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

LARGEST = 65504.0  # of float16, the NPU's own type: no trained model has such weights
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def check_tensors(tensors: Iterable[Tensor], config: dict, where: str) -> list[Tensor]:
    """Tensors in the order of the forward pass, without a copy of the embedding that serves as a tied head.

    Raises HexportError where one is missing, surplus or misshapen, and for a config that is not supported.
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
    """Write tensors as a stream in the safetensors format (https://github.com/huggingface/safetensors#format).

    Raises HexportError, and leaves no file, where a value is not finite or beyond LARGEST, and where a matrix is all
    zeros: that file was not written whole, or never trained.
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
    """The largest magnitude in a block, NaN where one is NaN."""
    if block.dtype == NUMPY_TYPES["BF16"]:
        # Without their signs, bits are in the order of the values; NaN comes last.
        return float(np.array(np.max(block & 0x7FFF) << np.uint32(16), np.uint32).view(np.float32))
    return float(np.abs(block).max())
