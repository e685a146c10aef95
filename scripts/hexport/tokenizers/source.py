"""A published tokenizer by its path: what kind it is, which files it has, what is in them."""

from pathlib import Path

from hexport.errors import HexportError
from hexport.tokenizers.gguf_tokenizer import read_gguf_tokenizer
from hexport.tokenizers.huggingface import read_hf_tokenizer, tokenizer_files


def read_tokenizer(source: Path) -> tuple[str, dict]:
    """Text of tokenizer.json and contents of tokenizer_config.json."""
    if source.suffix == ".gguf":
        backend, config = read_gguf_tokenizer(source)
        return backend.to_str(pretty=True) + "\n", config
    file = source / "tokenizer.json" if source.is_dir() else source
    return file.read_text(encoding="utf-8"), read_hf_tokenizer(file)


def source_files(source: Path) -> dict[str, Path]:
    """Name -> path of the files that the tokenizer is made from. Raises HexportError where it has none."""
    if not source.exists():
        raise HexportError(f"{source}: no such file or folder")
    if source.is_file() and source.suffix == ".gguf":
        return {source.name: source}
    if source.is_dir() or source.name == "tokenizer.json":
        if "tokenizer.json" in (files := tokenizer_files(source)):
            return files
        raise HexportError(f"{source}: no tokenizer.json in this folder")
    raise HexportError(f"{source}: expected a .gguf file, a folder with tokenizer.json, or a tokenizer.json")
