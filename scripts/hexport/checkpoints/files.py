"""This module tells which files a published checkpoint has, without reading weights.

The Snakefile calls it before any job starts, so it imports nothing heavy.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hexport.errors import HexportError
from hexport.json_file import read_json
from hexport.regular_file import regular_file

ACCEPTED = (
    "a Hugging Face folder (config.json with *.safetensors or pytorch_model*.bin), a Meta folder "
    "(consolidated.*.pth with params.json), a .gguf, .pth or .pt file, or a .bin of llama2.c"
)
Format = Literal["huggingface", "gguf", "meta", "llama2c"]


@dataclass(frozen=True)
class PublishedCheckpoint:
    """A published checkpoint is a list of weight files in one format, with the files that belong to them.

    `config` is config.json or params.json, and None where the weights' own file holds the config. `index` is the JSON
    file that says which shard has which tensor, and None where there is none.
    """

    format: Format
    weights: list[Path]
    config: Path | None = None
    index: Path | None = None

    @property
    def files(self) -> list[Path]:
        """Return the config, the weights and the index, without those that are None."""
        return [file for file in (self.config, *self.weights, self.index) if file is not None]


def checkpoint_files(path: Path, params: Path | None) -> list[Path]:
    """Return all files that the canonical checkpoint is made from. Raises HexportError as `find_checkpoint` does."""
    return find_checkpoint(path, params).files


def find_checkpoint(path: Path, params: Path | None) -> PublishedCheckpoint:
    """Find the checkpoint at `path`. `params` names a params.json that is not beside its Meta or llama2.c weights.

    Raises HexportError where `path` is no checkpoint, where a file is missing or is no regular file, and where `params`
    is given for a checkpoint that has its own config.
    """
    if not os.path.exists(path):  # unlike Path.exists, it raises for no name
        raise HexportError(f"{path}: no such file or folder; expected {ACCEPTED}")
    if params is not None and not os.path.isfile(params):
        raise HexportError(f"{params}: no such file; params names the params.json of a Meta or llama2.c checkpoint")
    found = _find_folder(path, params) if path.is_dir() else _find_file(path, params)
    if params is not None and found.config != params:
        raise HexportError(f"{path}: has its own config; remove params, which is for Meta and llama2.c checkpoints")
    for file in found.files:
        regular_file(file)
    return found


def _find_folder(folder: Path, params: Path | None) -> PublishedCheckpoint:
    config, (weights, index) = folder / "config.json", _hugging_face_weights(folder)
    shards = sorted(folder.glob("consolidated.*.pth"))
    if config.is_file() and weights and not (shards and params):
        return PublishedCheckpoint("huggingface", weights, config, index)
    for i, shard in enumerate(shards):
        if shard.name != f"consolidated.{i:02}.pth":
            raise HexportError(f"{folder}: consolidated.{i:02}.pth is missing beside {shard.name}; download it too")
    if shards:
        return PublishedCheckpoint("meta", shards, _params_beside(shards[0], params))
    if weights:
        raise HexportError(f"{config} is missing beside {weights[0].name}; download it too")
    if config.is_file():
        raise HexportError(f"{folder}: no *.safetensors or pytorch_model*.bin beside config.json; download them too")
    raise HexportError(f"{folder}: no checkpoint in this folder; expected {ACCEPTED}")


def _find_file(path: Path, params: Path | None) -> PublishedCheckpoint:
    regular_file(path)
    if path.suffix == ".gguf":
        return PublishedCheckpoint("gguf", [path])
    if path.suffix == ".pth":
        return PublishedCheckpoint("meta", [path], _params_beside(path, params))
    if path.suffix == ".pt":
        return PublishedCheckpoint("meta", [path], params)
    if path.suffix == ".bin" and not path.name.startswith("pytorch_model"):
        return PublishedCheckpoint("llama2c", [path], params)
    hint = f"; name its folder, {path.parent}" if (path.parent / "config.json").is_file() else ""
    raise HexportError(f"{path}: expected {ACCEPTED}{hint}")


def _params_beside(weights: Path, params: Path | None) -> Path:
    """Return `params`, or else the params.json beside the weights. Raises HexportError where there is neither."""
    beside = weights.with_name("params.json")
    if params is None and not beside.is_file():
        raise HexportError(f"{beside} is missing; download it, or name it with the model's key params")
    return params or beside


def _hugging_face_weights(folder: Path) -> tuple[list[Path], Path | None]:
    """Return the weight files and their index: safetensors files if the folder has any, and pickled files if not."""
    for index_name, pattern in (
        ("model.safetensors.index.json", "*.safetensors"),
        ("pytorch_model.bin.index.json", "pytorch_model*.bin"),
    ):
        if (index := folder / index_name).is_file():
            return _indexed(index), index
        if files := sorted(folder.glob(pattern)):
            return files, None
    return [], None


def _indexed(index: Path) -> list[Path]:
    """Return the shards that an index names. Raises HexportError where one of them is not beside it."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise HexportError(f"{index}: no weight_map from tensors to files")
    files = [index.parent / name for name in sorted(set(weight_map.values()))]
    for file in files:
        if file.parent != index.parent or not os.path.isfile(file):
            raise HexportError(f"{index}: {file.name} is not in the folder; download it too")
    return files
