"""A published checkpoint by its path: what kind it is, which files it has, what is in them."""

from pathlib import Path

from hexport.checkpoints.canonical import Tensor
from hexport.checkpoints.fetch import check_sha256
from hexport.checkpoints.gguf_checkpoint import read_gguf
from hexport.checkpoints.huggingface import read_folder, weight_files
from hexport.errors import HexportError


def read_checkpoint(source: Path) -> tuple[dict, list[Tensor]]:
    """Config and tensors under their canonical names; the tensors stay on disk."""
    return read_folder(source) if source.is_dir() else read_gguf(source)


def source_files(source: Path, sha256: str | None) -> dict[str, Path]:
    """Name -> path of the files that the canonical checkpoint is made from, after a check of the weights' SHA-256.

    Raises HexportError for a path that is neither a GGUF file nor a folder, and where `sha256` is given for a folder
    with several weight files.
    """
    if source.is_dir():
        weights = weight_files(source)
        files = {file.name: file for file in (source / "config.json", *weights)}
    elif source.suffix == ".gguf" and source.is_file():
        weights = [source]
        files = {source.name: source}
    elif not source.exists():
        raise HexportError(f"{source}: no such file or folder")
    else:
        raise HexportError(f"{source}: expected a .gguf file, or a folder with config.json and *.safetensors")
    if sha256 is not None and len(weights) > 1:
        raise HexportError(f"{source}: sha256 can check one file, but the folder has {len(weights)} weight files")
    check_sha256(weights[0], sha256, str(weights[0]))
    return files
