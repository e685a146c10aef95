"""This module finds the files of a published tokenizer by its path.

The Snakefile calls it before any job starts, so it imports nothing heavy.
"""

import os
from pathlib import Path

from hexport.errors import HexportError
from hexport.regular_file import regular_file

MAX_MODEL_BYTES = 64 << 20  # of a *.model: the largest published one has 5 MB
# What the chat template, the special tokens and the tokens that end a turn may come from, beside the tokenizer itself.
COMPANIONS = (
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "config.json",
)


def tokenizer_files(path: Path) -> list[Path]:
    """Return the tokenizer itself (.gguf, tokenizer.json or *.model), then the COMPANIONS that are beside it.

    A tokenizer.json wins over a tokenizer.model in the same folder. Where `path` is a checkpoint file, its folder is
    searched. Raises HexportError where there is no tokenizer, and for what is no regular file.
    """
    _check(path)
    if is_gguf(path):
        return [path]
    if (file := _json_file(path) or model_file(path)) is None:
        raise HexportError(
            f"{path}: no tokenizer; expected a .gguf file, a tokenizer.json, a tokenizer.model, or a folder with one"
        )
    beside = folder_of(path)
    return [file, *(beside / name for name in COMPANIONS if (beside / name).is_file())]


def model_file(path: Path) -> Path | None:
    """Return the published *.model of a source, or None where it has none.

    It is the source itself, or the tokenizer.model in its folder (`original/` in Llama 3's).
    """
    if path.suffix == ".model" and path.is_file():
        return path
    if is_gguf(path):
        return None
    places = (folder_of(path) / "tokenizer.model", folder_of(path) / "original" / "tokenizer.model")
    return next((file for file in places if file.is_file()), None)


def published_model(path: Path) -> Path:
    """Return what `model_file` does. Raises HexportError where the source has no *.model or does not exist."""
    _check(path)
    if (file := model_file(path)) is None:
        raise HexportError(f"{path}: no tokenizer.model is published with this tokenizer; use its tokenizer.json")
    return file


def _check(path: Path) -> None:
    if not os.path.exists(path):  # unlike Path.exists, it raises for no name
        raise HexportError(f"{path}: no such file or folder")
    if not path.is_dir():
        regular_file(path)


def is_sentencepiece(path: Path) -> bool:
    """Return whether a *.model is SentencePiece's ModelProto (sentencepiece/src/sentencepiece_model.proto).

    A ModelProto starts with field 1, a piece, whose field 1 is its text. The other kind of *.model, tiktoken's, is
    lines of base64.
    """
    with open(path, "rb") as file:
        head = file.read(4)
    return len(head) == 4 and head[0] == head[2] == 0x0A and head[3] < head[1]


def is_gguf(path: Path) -> bool:
    return path.suffix == ".gguf" and path.is_file()


def _json_file(path: Path) -> Path | None:
    """Return the tokenizer.json of a source, unless the source names another tokenizer.

    The name of a download has a prefix.
    """
    if path.is_file() and path.name.endswith("tokenizer.json"):
        return path
    file = folder_of(path) / "tokenizer.json"
    return file if path.suffix != ".model" and file.is_file() else None


def folder_of(path: Path) -> Path:
    """Return the source itself if it is a folder, and otherwise the folder that it lies in."""
    return path if path.is_dir() else path.parent
