"""This module reads the metadata and the tensor table of GGUF files.

The format is in docs/gguf.md of github.com/ggml-org/ggml. Every count, length and offset is checked before memory or
time goes into it. The gguf package's own reader believes what a file says of itself, and keeps two numpy views for each
string: 160 MB and two seconds for 49k tokens and their merges.
"""

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType
from gguf.constants import GGML_QUANT_SIZES

from hexport.errors import HexportError
from hexport.regular_file import regular_file

MAX_KEYS, MAX_TENSORS, MAX_ITEMS = 10_000, 100_000, 4_000_000  # in a file, in a file, in a list
MAX_HEADER_BYTES, MAX_TEXT_BYTES = 256 << 20, 16 << 20
MAX_DIMENSIONS, MAX_SIZE = 4, 1 << 40
OTHER_TYPES = {GGUFValueType.STRING, GGUFValueType.ARRAY}
SCALARS = {kind: np.dtype(kind.name.lower()).newbyteorder("<") for kind in GGUFValueType if kind not in OTHER_TYPES}


@dataclass(frozen=True)
class GgufTensor:
    """A GGUF tensor is an entry of the tensor table.

    `shape` has rows first. `offset` counts bytes from the start of the file; `nbytes` from there on are in the file.
    """

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Texts:
    """An instance stands for a list of texts in the file, which is decoded only when asked for."""

    data: mmap.mmap
    offset: int
    count: int


@dataclass(frozen=True)
class GgufFile:
    """An instance holds the metadata and the tensor table of one file.

    In `metadata`, a text that is not UTF-8 is bytes, a list of numbers is a numpy array, and a list of texts is
    `Texts`. The methods return the value of a key in one type, or `default` where the key is absent. They raise
    HexportError for a value of another type.
    """

    path: Path
    metadata: dict[str, object]
    tensors: list[GgufTensor]

    def text(self, key: str, default: str | None = None) -> str | None:
        found = self.metadata.get(key, default)
        if isinstance(found, bytes):
            raise HexportError(f"{self.path}: {key} is not UTF-8; fetch the file again")
        return self._typed(key, found, str, "a text")

    def integer(self, key: str, default: int | None = None) -> int | None:
        return self._typed(key, self.metadata.get(key, default), int, "a whole number")

    def boolean(self, key: str, default: bool) -> bool:
        return self._typed(key, self.metadata.get(key, default), bool, "true or false")

    def numbers(self, key: str, kinds: str) -> list:
        """Return a list of numbers whose numpy kind is in `kinds`, "iu" or "f". It is empty where the key is absent."""
        found = self.metadata.get(key)
        if found is None:
            return []
        if not isinstance(found, np.ndarray) or found.dtype.kind not in kinds:
            raise HexportError(f"{self.path}: {key} is {self.shown(key)}, expected a list of numbers")
        return found.tolist()

    def texts(self, key: str) -> list[str]:
        """Return a list of texts, empty where the key is absent. Raises HexportError for a text that is not UTF-8."""
        found, texts = self.metadata.get(key), []
        if found is None:
            return []
        if not isinstance(found, Texts):
            raise HexportError(f"{self.path}: {key} is {self.shown(key)}, expected a list of texts")
        cursor = _Cursor(found.data, self.path, found.offset)
        for i in range(found.count):
            try:
                texts.append(cursor.text().decode())
            except UnicodeDecodeError:
                raise HexportError(f"{self.path}: {key}: item {i} is not UTF-8") from None
        return texts

    def shown(self, key: str) -> str:
        """Return a value as an error shows it, in at most 80 characters."""
        found = self.metadata.get(key)
        if isinstance(found, Texts):
            return f"a list of {found.count} texts"
        return repr(found[:8].tolist() if isinstance(found, np.ndarray) else found)[:80]

    def _typed(self, key: str, found: object, kind: type, expected: str) -> object:
        if found is not None and type(found) is not kind:
            raise HexportError(f"{self.path}: {key} is {self.shown(key)}, expected {expected}")
        return found


class _Cursor:
    """A cursor is a place in the header, which moves on only over bytes that the file has."""

    def __init__(self, data: mmap.mmap, path: Path, offset: int) -> None:
        self.data, self.path, self.offset = data, path, offset

    def skip(self, size: int) -> int:
        """Return the offset of the next `size` bytes, and move past them."""
        start, self.offset = self.offset, self.offset + size
        if self.offset > min(len(self.data), MAX_HEADER_BYTES):
            self.refuse("ends in its header" if self.offset > len(self.data) else "has too large a header")
        return start

    def number(self, kind: str) -> int:
        """Return the next whole number, which is little-endian and of struct's kind I or Q."""
        return struct.unpack_from(f"<{kind}", self.data, self.skip(struct.calcsize(f"<{kind}")))[0]

    def count(self, limit: int, what: str) -> int:
        if (count := self.number("Q")) > limit:
            self.refuse(f"says it has {count} {what}, more than {limit}")
        return count

    def text(self) -> bytes:
        start = self.skip(self.count(MAX_TEXT_BYTES, "bytes in a text"))
        return self.data[start : self.offset]

    def scalars(self, kind: GGUFValueType, count: int) -> np.ndarray:
        dtype = SCALARS[kind]
        return np.frombuffer(self.data, dtype, count, self.skip(count * dtype.itemsize))

    def refuse(self, reason: str) -> None:
        raise HexportError(f"{self.path}: not a whole GGUF file: it {reason}; fetch it again")


def open_gguf(path: Path) -> GgufFile:
    """Read the metadata and the tensor table of a file.

    Raises HexportError for what is not GGUF, damaged, big-endian, or one part of several.
    """
    with open(regular_file(path), "rb") as file:
        if len(file.peek(4)) < 4:
            raise HexportError(f"{path}: not a whole GGUF file: it has fewer than 4 bytes; fetch it again")
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    cursor = _Cursor(data, path, 4)
    if data[:4] != b"GGUF":
        cursor.refuse("does not begin with GGUF")
    version = cursor.number("I")
    if version & 0xFFFF == 0:
        raise HexportError(f"{path}: a big-endian GGUF file; only little-endian ones are read")
    if version not in (2, 3):
        raise HexportError(f"{path}: version {version} of GGUF; versions 2 and 3 are read: convert it anew")
    n_tensors, n_keys = cursor.count(MAX_TENSORS, "tensors"), cursor.count(MAX_KEYS, "keys")
    metadata = _read_metadata(cursor, n_keys)
    file = GgufFile(path, metadata, [])
    if (parts := file.integer("split.count", 1)) > 1:
        raise HexportError(f"{path}: one of {parts} parts; join them first: llama-gguf-split --merge")
    alignment = file.integer("general.alignment", 32)
    if alignment < 1 or alignment & (alignment - 1) or alignment > 1 << 20:
        raise HexportError(f"{path}: general.alignment is {alignment}; expected a power of two")
    file.tensors.extend(_read_tensors(cursor, n_tensors, alignment))
    return file


def _read_metadata(cursor: _Cursor, count: int) -> dict[str, object]:
    metadata: dict[str, object] = {}
    for _ in range(count):
        key = cursor.text().decode(errors="backslashreplace")
        if key in metadata:
            cursor.refuse(f"has the key {key[:80]} twice")
        metadata[key] = _read_value(cursor, key)
    return metadata


def _read_value(cursor: _Cursor, key: str) -> object:
    kind = cursor.number("I")
    if kind == GGUFValueType.STRING:
        text = cursor.text()
        try:
            return text.decode()
        except UnicodeDecodeError:
            return text
    if kind in SCALARS:
        return cursor.scalars(kind, 1)[0].item()
    if kind != GGUFValueType.ARRAY:
        cursor.refuse(f"has the key {key[:80]} of unknown type {kind}")
    kind, count = cursor.number("I"), cursor.count(MAX_ITEMS, f"items in the list {key[:80]}")
    if kind in SCALARS:
        return cursor.scalars(kind, count)
    if kind != GGUFValueType.STRING:
        cursor.refuse(f"has a list {key[:80]} of things of type {kind}, which are not read")
    start = cursor.offset
    for _ in range(count):
        cursor.skip(cursor.number("Q"))
    return Texts(cursor.data, start, count)


def _read_tensors(cursor: _Cursor, count: int, alignment: int) -> list[GgufTensor]:
    entries, seen = [], set()
    for _ in range(count):
        name = cursor.text().decode(errors="backslashreplace")
        if name in seen:
            cursor.refuse(f"has the tensor {name[:80]} twice")
        seen.add(name)
        entries.append((name, *_read_entry(cursor, name[:80])))
    start = -(-cursor.offset // alignment) * alignment
    tensors = [GgufTensor(name, shape, kind, start + offset, nbytes) for name, shape, kind, offset, nbytes in entries]
    end = start
    for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
        if tensor.offset < end or (tensor.offset - start) % alignment:
            cursor.refuse(f"has the tensor {tensor.name[:80]} where another one is, or between two places")
        end = tensor.offset + tensor.nbytes
        if end > len(cursor.data):
            cursor.refuse(f"ends before the tensor {tensor.name[:80]} does")
    return tensors


def _read_entry(cursor: _Cursor, name: str) -> tuple[tuple[int, ...], GGMLQuantizationType, int, int]:
    """Return the shape with rows first, the type, the offset from the first tensor, and the size in bytes."""
    if not 1 <= (n_dimensions := cursor.number("I")) <= MAX_DIMENSIONS:
        cursor.refuse(f"has the tensor {name} of {n_dimensions} dimensions")
    sizes = [cursor.number("Q") for _ in range(n_dimensions)]  # the fastest dimension first
    code, offset = cursor.number("I"), cursor.number("Q")
    if 0 in sizes or math.prod(sizes) > MAX_SIZE:
        cursor.refuse(f"has the tensor {name} of the impossible sizes {sizes}")
    try:
        kind = GGMLQuantizationType(code)
    except ValueError:
        cursor.refuse(f"has the tensor {name} of unknown type {code}")
    block, block_bytes = GGML_QUANT_SIZES[kind]
    if sizes[0] % block:
        cursor.refuse(f"has the tensor {name} of type {kind.name} with rows of {sizes[0]}, no multiple of {block}")
    return tuple(reversed(sizes)), kind, offset, math.prod(sizes) // block * block_bytes
