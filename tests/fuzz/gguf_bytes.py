"""A writer of GGUF files that refuses nothing (format: docs/gguf.md of ggml), for files that no other writer makes."""

import struct
from typing import NamedTuple

import numpy as np

# Types of metadata values, and of tensors.
UINT8, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, INT64, FLOAT64 = 0, 4, 5, 6, 7, 8, 9, 10, 11, 12
F32, Q4_0 = 0, 2
FORMATS = {UINT8: "<B", UINT32: "<I", INT32: "<i", FLOAT32: "<f", BOOL: "<?", UINT64: "<Q", INT64: "<q", FLOAT64: "<d"}
ALIGNMENT = 32


class Entry(NamedTuple):
    """A key of the metadata. An ARRAY's value is the items' type and the items; bytes are written as they are."""

    key: str
    kind: int
    value: object


class Matrix(NamedTuple):
    """A tensor, rows first. `offset` takes the place of the right one."""

    name: str
    shape: tuple[int, ...]
    kind: int
    values: np.ndarray
    offset: int | None = None


def gguf(
    entries: list[Entry], tensors: list[Matrix], *, version: int = 3, n_entries: int | None = None,
    n_tensors: int | None = None,
) -> bytes:  # fmt: skip
    counts = len(tensors) if n_tensors is None else n_tensors, len(entries) if n_entries is None else n_entries
    head = b"GGUF" + struct.pack("<IQQ", version, *counts)
    for entry in entries:
        head += _text(entry.key) + struct.pack("<I", entry.kind) + _value(entry.kind, entry.value)
    body = b""
    for tensor in tensors:
        offset = len(body) if tensor.offset is None else tensor.offset
        dims = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *reversed(tensor.shape))
        head += _text(tensor.name) + dims + struct.pack("<IQ", tensor.kind, offset)
        body += _padded(np.ascontiguousarray(tensor.values).tobytes())
    return _padded(head) + body


def _value(kind: int, value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if kind == STRING:
        return _text(value)
    if kind == ARRAY:
        item_kind, items = value
        return struct.pack("<IQ", item_kind, len(items)) + b"".join(_value(item_kind, item) for item in items)
    return struct.pack(FORMATS[kind], value)


def _text(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(data)) + data


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % ALIGNMENT)
