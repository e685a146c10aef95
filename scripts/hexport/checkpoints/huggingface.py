"""Reads a Hugging Face folder, config.json and one or many safetensors files, as a canonical checkpoint."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from hexport.checkpoints.canonical import BLOCK_BYTES, NUMPY_TYPES, Tensor, read_blocks
from hexport.checkpoints.json_file import read_json
from hexport.errors import HexportError

MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library


def read_folder(folder: Path) -> tuple[dict, list[Tensor]]:
    """Config and tensors of a folder as they are; tensors stay on disk.

    Raises HexportError for a missing or malformed file, a type other than F32, F16 and BF16, a tensor found twice.
    """
    config = read_json(folder / "config.json")
    tensors: dict[str, Tensor] = {}
    for file in weight_files(folder):
        for tensor in _read_header(file):
            if tensor.name in tensors:
                raise HexportError(f"{file}: tensor {tensor.name} is in another file of the folder too")
            # Old checkpoints hold this buffer, which follows from the config; transformers skips it too.
            if not tensor.name.endswith("rotary_emb.inv_freq"):
                tensors[tensor.name] = tensor
    if config.get("tie_word_embeddings"):
        _drop_tied_copy(tensors, folder)
    return config, list(tensors.values())


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder: the shards that its index names, or else all there are."""
    if (index := folder / "model.safetensors.index.json").is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise HexportError(f"{index}: no weight_map from tensors to files")
        files = [folder / name for name in sorted(set(weight_map.values()))]
        for file in files:
            if file.parent != folder or not file.is_file():
                raise HexportError(f"{index}: {file.name} is not in the folder; download it too")
        return files
    if files := sorted(folder.glob("*.safetensors")):
        return files
    hint = "; pickled weights (*.bin, *.pt) are not read" if [*folder.glob("*.bin"), *folder.glob("*.pt")] else ""
    raise HexportError(f"{folder}: no *.safetensors file{hint}")


def _read_header(path: Path) -> Iterator[Tensor]:
    """Tensors of a safetensors file (https://github.com/huggingface/safetensors#format)."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
            raise HexportError(f"{path}: not a whole safetensors file")
        text = file.read(length)
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        entries = [(name, e["dtype"], tuple(e["shape"]), *map(int, e["data_offsets"])) for name, e in header.items()]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise HexportError(f"{path}: malformed safetensors header: {error!r}") from error
    for name, dtype, shape, start, end in entries:
        if dtype not in NUMPY_TYPES:
            raise HexportError(f"{path}: tensor {name} has type {dtype}; supported: {', '.join(NUMPY_TYPES)}")
        if not all(type(size) is int and size >= 0 for size in shape):
            raise HexportError(f"{path}: tensor {name} has the shape {list(shape)}")
        tensor = Tensor(name, dtype, shape, partial(_blocks, path, dtype, 8 + length + start, end - start))
        if tensor.nbytes != end - start or start < 0 or 8 + length + end > size:
            raise HexportError(f"{path}: tensor {name}: the file ends early or its header is wrong; fetch it again")
        yield tensor


def _blocks(path: Path, dtype: str, offset: int, nbytes: int) -> Iterator[np.ndarray]:
    for block in read_blocks(path, offset, nbytes, BLOCK_BYTES):
        yield block.view(NUMPY_TYPES[dtype])


def _drop_tied_copy(tensors: dict[str, Tensor], folder: Path) -> None:
    """Drop the output projection of a tied checkpoint where it repeats the embedding, as some exporters store it."""
    head, embedding = tensors.get("lm_head.weight"), tensors.get("model.embed_tokens.weight")
    if head is None or embedding is None:
        return
    same = (head.dtype, head.shape) == (embedding.dtype, embedding.shape)
    if not same or not all(map(np.array_equal, head.blocks(), embedding.blocks())):
        raise HexportError(
            f"{folder}: config.json ties lm_head.weight to model.embed_tokens.weight, but their values differ; "
            "set tie_word_embeddings to false or remove one"
        )
    del tensors["lm_head.weight"]
