"""The tensor table of a safetensors file (https://github.com/huggingface/safetensors#format)."""

import json
from collections.abc import Iterator
from pathlib import Path

from hexport.checkpoints.tensor import NUMPY_TYPES, Tensor, stored
from hexport.errors import HexportError

MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library


def read_safetensors(path: Path) -> Iterator[Tensor]:
    """Raises HexportError for a malformed or truncated file, and for a type other than F32, F16 and BF16."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
            raise HexportError(f"{path}: not a whole safetensors file; fetch it again")
        text = file.read(length)
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        entries = [(name, e["dtype"], tuple(e["shape"]), *map(int, e["data_offsets"])) for name, e in header.items()]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise HexportError(f"{path}: malformed safetensors header: {error!r}; fetch it again") from error
    for name, dtype, shape, start, end in entries:
        if dtype not in NUMPY_TYPES:
            raise HexportError(f"{path}: tensor {name} has type {dtype}; supported: {', '.join(NUMPY_TYPES)}")
        if not all(type(size) is int and size >= 0 for size in shape):
            raise HexportError(f"{path}: tensor {name} has the impossible shape {list(shape)}; fetch it again")
        tensor = stored(name, path, 8 + length + start, dtype, shape)
        if tensor.nbytes != end - start or start < 0 or 8 + length + end > size:
            raise HexportError(f"{path}: tensor {name}: the file ends early or its header is wrong; fetch it again")
        yield tensor
