"""This module describes tensors that stay in their files and are read block by block, and tensors derived from them."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hexport.errors import HexportError

BLOCK_BYTES = 4 << 20  # what is read, converted and written at a time
NUMPY_TYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
TORCH_TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Tensor:
    """A tensor stays on disk and is read block by block: its rows come in order, and are never in memory all at once.

    `dtype` is F32, F16 or BF16. Blocks are numpy arrays of the type in NUMPY_TYPES (BF16 as its bits in uint16).
    `read(n)` yields blocks of whole rows, and each block has a multiple of n rows.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    read: Callable[[int], Iterator[np.ndarray]]

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield the tensor's rows in order, in blocks of about BLOCK_BYTES."""
        return self.read(1)

    @property
    def nbytes(self) -> int:
        """Return the size of all values in bytes."""
        return math.prod(self.shape) * NUMPY_TYPES[self.dtype].itemsize


def stored(name: str, path: Path, offset: int, dtype: str, shape: tuple[int, ...]) -> Tensor:
    """Return a tensor whose rows lie one after the other in a file, from byte `offset` on."""

    def read(multiple: int) -> Iterator[np.ndarray]:
        nbytes = math.prod(shape) * NUMPY_TYPES[dtype].itemsize
        row_bytes = nbytes // shape[0]
        for block in read_blocks(path, offset, nbytes, rows_per_block(row_bytes, multiple) * row_bytes):
            yield block.view(NUMPY_TYPES[dtype]).reshape(-1, *shape[1:])

    return Tensor(name, dtype, shape, read)


def rows_per_block(row_bytes: int, multiple: int) -> int:
    """Return how many rows make about one block. The number is a multiple of `multiple`."""
    return max(1, BLOCK_BYTES // (row_bytes * multiple)) * multiple


def read_blocks(path: Path, offset: int, nbytes: int, block_bytes: int) -> Iterator[np.ndarray]:
    """Yield bytes `offset` to `offset + nbytes` of a file as uint8 arrays of `block_bytes`, the last one shorter.

    The file is read rather than mapped, as pages of a mapping would count as this process's memory. Raises HexportError
    where the file ends early.
    """
    with open(path, "rb", buffering=0) as file:
        file.seek(offset)
        for start in range(0, nbytes, block_bytes):
            block = np.fromfile(file, np.uint8, min(block_bytes, nbytes - start))
            if block.size != min(block_bytes, nbytes - start):
                raise HexportError(f"{path}: the file ends early; fetch or copy it again")
            yield block


def half_split(tensor: Tensor, head_dim: int) -> Tensor:
    """Return the tensor with the rows of each head in Hugging Face's order, first halves and then second halves.

    The given tensor has them in pair-by-pair order (Meta, llama.cpp). This is the inverse of LlamaModel.permute in
    llama.cpp's conversion/llama.py.
    """

    def read(multiple: int) -> Iterator[np.ndarray]:
        for rows in tensor.read(math.lcm(multiple, head_dim)):
            heads = rows.reshape(-1, head_dim // 2, 2, *rows.shape[1:])
            yield heads.swapaxes(1, 2).reshape(rows.shape)

    return Tensor(tensor.name, tensor.dtype, tensor.shape, read)


def joined(shards: list[Tensor], dim: int) -> Tensor:
    """Join shards of one shape along dimension 0 or 1. The result has the first shard's name and type."""
    first = shards[0]

    def read(multiple: int) -> Iterator[np.ndarray]:
        blocks = [shard.read(multiple) for shard in shards]
        if dim == 0:
            return itertools.chain.from_iterable(blocks)
        return (np.concatenate(beside, axis=1) for beside in zip(*blocks, strict=True))

    shape = tuple(size * len(shards) if i == dim else size for i, size in enumerate(first.shape))
    return Tensor(first.name, first.dtype, shape, read)


def equal(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors hold the same values in the same type."""
    return (a.dtype, a.shape) == (b.dtype, b.shape) and all(map(np.array_equal, a.blocks(), b.blocks()))


def torch_dtype(tensors: Iterable[Tensor]) -> str:
    """Return the name of the torch dtype that holds every tensor without loss: `bfloat16`, say."""
    dtypes = {tensor.dtype for tensor in tensors}
    return TORCH_TYPES[dtypes.pop()] if len(dtypes) == 1 else "float32"
