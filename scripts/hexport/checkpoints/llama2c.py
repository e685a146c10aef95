"""This module reads the .bin files of llama2.c as a canonical checkpoint.

Such a file is a header of integers and then float32 tensors, all layers of one kind together. The layouts are those of
legacy_export and version1_export in export.py (github.com/karpathy/llama2.c).
"""

import math
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

from hexport.checkpoints.files import PublishedCheckpoint
from hexport.checkpoints.meta import canonical_name, llama_checkpoint
from hexport.checkpoints.meta_params import merged_params
from hexport.checkpoints.tensor import Tensor, stored
from hexport.errors import HexportError

MAGIC = 0x616B3432  # "ak42", from version 1 on
FIELDS = ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "max_seq_len")
LEGACY_ORDER = (
    "tok_embeddings", "attention_norm", "attention.wq", "attention.wk", "attention.wv", "attention.wo",
    "ffn_norm", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3", "norm", "freqs", "output",
)  # fmt: skip
VERSION_1_ORDER = (
    "attention_norm", "ffn_norm", "norm", "tok_embeddings", "attention.wq", "attention.wk", "attention.wv",
    "attention.wo", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3", "output",
)  # fmt: skip


@dataclass(frozen=True)
class Header:
    """A header says what a .bin file holds.

    `params` are its sizes by their names in FIELDS. `order` lists its tensors, without the head that is the embedding.
    """

    params: dict[str, int]
    start: int  # byte at which the tensors begin
    order: list[str]


def read_bin(checkpoint: PublishedCheckpoint) -> tuple[dict, list[Tensor]]:
    """Return a Hugging Face config and float32 tensors, which stay on disk.

    Raises HexportError for what is not a whole file of version 0 or 1, and for a params.json that contradicts it.
    """
    path = checkpoint.weights[0]
    header = _read_header(path)
    params = merged_params(header.params, checkpoint.config, path) if checkpoint.config else header.params
    return llama_checkpoint(_tensors(path, header), params, path, str(checkpoint.config or path))


def _read_header(path: Path) -> Header:
    with open(path, "rb") as file:
        start = file.read(256)
    if len(start) < 256:
        raise HexportError(f"{path}: not a model of llama2.c: {len(start)} bytes")
    magic, version = struct.unpack_from("<Ii", start)
    if magic == MAGIC and version != 1:
        raise HexportError(f"{path}: version {version} of llama2.c's format (2 is int8); export it as version 0 or 1")
    values = struct.unpack_from("<7i", start, 8 if magic == MAGIC else 0)
    params = dict(zip(FIELDS, values, strict=True))
    tied = bool(start[36]) if magic == MAGIC else params["vocab_size"] > 0
    params["vocab_size"] = abs(params["vocab_size"])
    if not all(0 < value < 1 << 24 for value in params.values()) or params["dim"] % params["n_heads"]:
        hint = "; a Hugging Face checkpoint is named by its folder" if zipfile.is_zipfile(path) else ""
        raise HexportError(f"{path}: not a model of llama2.c: impossible sizes in its header{hint}")
    begin, order = (256, VERSION_1_ORDER) if magic == MAGIC else (28, LEGACY_ORDER)
    return Header(params, begin, [part for part in order if part != "output" or not tied])


def _tensors(path: Path, header: Header) -> dict[str, Tensor]:
    """Return the tensors by canonical names. Raises HexportError where the file's size is not what its header says."""
    dim, ffn, layers, heads, kv_heads, vocabulary, length = (header.params[field] for field in FIELDS)
    kv = kv_heads * (dim // heads)
    layer_shapes = {
        "attention_norm": (dim,), "attention.wq": (dim, dim), "attention.wk": (kv, dim), "attention.wv": (kv, dim),
        "attention.wo": (dim, dim), "ffn_norm": (dim,), "feed_forward.w1": (ffn, dim), "feed_forward.w2": (dim, ffn),
        "feed_forward.w3": (ffn, dim),
    }  # fmt: skip
    shapes = {"tok_embeddings": (vocabulary, dim), "norm": (dim,), "output": (vocabulary, dim)}
    shapes["freqs"] = (2 * length, dim // heads // 2)  # cosines and sines, which follow from the sizes: skipped
    sizes = [layers * math.prod(layer_shapes[p]) if p in layer_shapes else math.prod(shapes[p]) for p in header.order]
    # This check comes before any name is made: a damaged header can say millions of layers.
    if (size := path.stat().st_size) != (said := header.start + 4 * sum(sizes)):
        raise HexportError(f"{path}: not a whole model of llama2.c: {size} bytes, its header says {said}")
    tensors, offset = {}, header.start
    for part in header.order:
        shape = layer_shapes.get(part) or shapes[part]
        for name in [f"layers.{i}.{part}" for i in range(layers)] if part in layer_shapes else [part]:
            if name != "freqs":
                canonical, _ = canonical_name(f"{name}.weight", path)
                tensors[canonical] = stored(canonical, path, offset, "F32", shape)
            offset += 4 * math.prod(shape)
    return tensors
