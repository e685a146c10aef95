"""This module reads a published tokenizer of any format by its path."""

from pathlib import Path

from tokenizers import Tokenizer, processors

from hexport.tokenizers.backend import load_backend
from hexport.tokenizers.files import folder_of, is_gguf, is_sentencepiece, tokenizer_files
from hexport.tokenizers.gguf_tokenizer import read_gguf_tokenizer
from hexport.tokenizers.huggingface import add_listed_tokens, read_tokenizer_config
from hexport.tokenizers.library import one_line_library_errors, panics_unsaid
from hexport.tokenizers.sentencepiece_model import read_sentencepiece
from hexport.tokenizers.tiktoken_model import read_tiktoken


def read_tokenizer(source: Path) -> tuple[str, dict]:
    """Return the text of tokenizer.json and the contents of tokenizer_config.json.

    Raises HexportError where there is no tokenizer, or where its files are malformed or not supported.
    """
    file = tokenizer_files(source)[0]
    with one_line_library_errors(f"{file}: cannot be made a tokenizer"), panics_unsaid():
        return _read(file, source)


def _read(file: Path, source: Path) -> tuple[str, dict]:
    if file.suffix == ".json":
        config = read_tokenizer_config(load_backend(file), file.parent, {})
        return file.read_text(encoding="utf-8"), config
    backend, config = read_gguf_tokenizer(file) if is_gguf(file) else _read_model(file, source)
    if config["add_bos_token"]:
        bos = config["bos_token"]
        special = [(bos, backend.token_to_id(bos))]
        backend.post_processor = processors.TemplateProcessing(single=[bos, "$A"], special_tokens=special)
    return backend.to_str(pretty=True) + "\n", config


def _read_model(file: Path, source: Path) -> tuple[Tokenizer, dict]:
    backend, special = read_sentencepiece(file) if is_sentencepiece(file) else read_tiktoken(file)
    add_listed_tokens(backend, folder_of(source))
    return backend, read_tokenizer_config(backend, folder_of(source), special)
