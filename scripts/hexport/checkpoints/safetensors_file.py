"""This module reads the tensor table of a safetensors file (https://github.com/huggingface/safetensors#format)."""

from collections.abc import Iterator
from pathlib import Path

from safetensors import safe_open

from hexport.checkpoints.tensor import NUMPY_TYPES, Tensor, stored
from hexport.errors import HexportError, one_line
from hexport.json_file import MAX_BYTES, parse_json
from hexport.regular_file import regular_file


def read_safetensors(path: Path) -> Iterator[Tensor]:
    """Yield the tensors of a file, in the order of its header; they stay on disk.

    Raises HexportError for a malformed or truncated file, and for a type other than F32, F16 and BF16.
    """
    with open(regular_file(path), "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(path.stat().st_size - 8, MAX_BYTES):
            raise HexportError(f"{path}: not a whole safetensors file; fetch it again")
        text = file.read(length)
    try:
        # The library checks sizes, types, and that offsets follow each other to the end. It maps the file, so the
        # tensors are not read.
        with safe_open(path, framework="numpy"):
            pass
    except Exception as error:  # the library has no public type of its own for this
        raise HexportError(f"{path}: not a whole safetensors file: {one_line(error)}; fetch it again") from error
    header = parse_json(text, f"{path}: the header")
    header.pop("__metadata__", None)
    for name, entry in header.items():
        if (dtype := entry["dtype"]) not in NUMPY_TYPES:
            raise HexportError(f"{path}: tensor {name} has type {dtype}; supported: {', '.join(NUMPY_TYPES)}")
        yield stored(name, path, 8 + length + entry["data_offsets"][0], dtype, tuple(entry["shape"]))
