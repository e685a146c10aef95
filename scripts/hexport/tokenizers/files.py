"""The files of a published tokenizer, by its path. Light: the Snakefile calls these before any job starts."""

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
    """The tokenizer itself (.gguf, tokenizer.json or *.model), then the files beside it that it is made from too.

    A tokenizer.json wins over a tokenizer.model in the same folder; beside a checkpoint file, its folder is looked in.
    Raises HexportError where there is no tokenizer, and for what is no regular file.
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
    """The published *.model of a source: itself, or the one in its folder (`original/` in Llama 3's)."""
    if path.suffix == ".model" and path.is_file():
        return path
    if is_gguf(path):
        return None
    places = (folder_of(path) / "tokenizer.model", folder_of(path) / "original" / "tokenizer.model")
    return next((file for file in places if file.is_file()), None)


def published_model(path: Path) -> Path:
    """`model_file`, or a HexportError where the source has none."""
    _check(path)
    if (file := model_file(path)) is None:
        raise HexportError(f"{path}: no tokenizer.model is published with this tokenizer; use its tokenizer.json")
    return file


def _check(path: Path) -> None:
    if not os.path.exists(path):  # unlike Path's own, it takes any name
        raise HexportError(f"{path}: no such file or folder")
    if not path.is_dir():
        regular_file(path)


def is_sentencepiece(path: Path) -> bool:
    """Whether a *.model is SentencePiece's ModelProto: it starts with field 1, a piece, whose field 1 is its text.

    The other kind, tiktoken's, is lines of base64 (sentencepiece/src/sentencepiece_model.proto).
    """
    with open(path, "rb") as file:
        head = file.read(4)
    return len(head) == 4 and head[0] == head[2] == 0x0A and head[3] < head[1]


def is_gguf(path: Path) -> bool:
    return path.suffix == ".gguf" and path.is_file()


def _json_file(path: Path) -> Path | None:
    """The tokenizer.json of a source, unless the source names another tokenizer. A download's name has a prefix."""
    if path.is_file() and path.name.endswith("tokenizer.json"):
        return path
    file = folder_of(path) / "tokenizer.json"
    return file if path.suffix != ".model" and file.is_file() else None


def folder_of(path: Path) -> Path:
    """The folder that a source is, or lies in."""
    return path if path.is_dir() else path.parent
