"""GGUF files: metadata and tensor table, with the gguf package, in little memory."""

import struct
from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFValueType
from gguf.constants import GGUFEndian
from gguf.gguf_reader import ReaderTensor

from hexport.errors import HexportError


class HeaderReader(GGUFReader):
    """A GGUFReader that skips lists of strings and keeps lists of numbers as one array.

    The package keeps two numpy views a string: 160 MB and two seconds for a vocabulary of 49k tokens and their merges.
    """

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> tuple[int, list, list, list]:
        if raw_type != GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        item_type, length = self._get(orig_offs, np.uint32), self._get(orig_offs + 4, np.uint64)
        types = [GGUFValueType.ARRAY, GGUFValueType(item_type[0])]
        start = offset = orig_offs + 12
        if types[1] == GGUFValueType.STRING:
            for _ in range(int(length[0])):
                offset += 8 + struct.unpack_from("<Q", self.data, offset)[0]
            return offset - orig_offs, [item_type, length], [], types
        values = self._get(start, self.gguf_scalar_to_np[types[1]], length[0])
        return 12 + values.nbytes, [item_type, length, values], [2], types


def open_gguf(path: Path) -> HeaderReader:
    """Raises HexportError for what is not GGUF, damaged, big-endian, or one part of several."""
    try:
        file = HeaderReader(path)
    except (ValueError, IndexError, KeyError, OverflowError, struct.error) as error:
        raise HexportError(f"{path}: not a whole GGUF file: {error}; fetch it again") from error
    if file.endianess != GGUFEndian.LITTLE:
        raise HexportError(f"{path}: a big-endian GGUF file; only little-endian ones are read")
    if (parts := metadata(file, "split.count", 1)) > 1:
        raise HexportError(f"{path}: one of {parts} parts; join them first: llama-gguf-split --merge")
    return file


def metadata(file: GGUFReader, key: str, default: object = None) -> object:
    """Value of a metadata key as a Python object. Raises HexportError for a text that is not UTF-8."""
    field = file.get_field(key)
    try:
        return default if field is None else field.contents()
    except UnicodeDecodeError as error:
        raise HexportError(f"{file.data.filename}: {key} is not UTF-8; fetch the file again") from error


def tensor_shape(entry: ReaderTensor) -> tuple[int, ...]:
    """Rows first: GGUF stores the fastest dimension first."""
    return tuple(int(size) for size in reversed(entry.shape))
