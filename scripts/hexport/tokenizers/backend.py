"""This module loads a tokenizer.json into the tokenizers library, and reads the special tokens of a config."""

from pathlib import Path

import tokenizers

from hexport.errors import HexportError
from hexport.json_file import read_json
from hexport.regular_file import read_bytes
from hexport.tokenizers.library import one_line_library_errors, panics_unsaid

MAX_BYTES = 256 << 20  # of a tokenizer.json: the largest published one has 35 MB
PROBES = ("", "a b", "\u00e9\n")


def load_backend(path: Path) -> tokenizers.Tokenizer:
    """Load a tokenizer.json into the tokenizers library, without truncation or padding.

    Raises HexportError where the file is missing, has no vocabulary, or is one that the library cannot read or encode
    with.
    """
    if not path.exists():
        raise HexportError(f"{path} is missing")
    text = read_bytes(path, MAX_BYTES)
    with one_line_library_errors(f"{path}: the tokenizers library cannot read it"), panics_unsaid():
        backend = tokenizers.Tokenizer.from_buffer(text)
        for sample in PROBES:  # a post-processor may name a token that is not there
            backend.encode(sample)
    if not backend.get_vocab_size():
        raise HexportError(f"{path}: has no vocabulary")
    backend.no_truncation()
    backend.no_padding()
    return backend


def special_tokens(config: dict) -> dict[str, str]:
    """Return bos_token, eos_token, … of a tokenizer_config.json as texts: `{"bos_token": "<s>"}`.

    The file may hold them as AddedToken objects, too.
    """
    tokens = {key: value for key, value in config.items() if key.endswith("_token") and value}
    texts = {key: value.get("content") if isinstance(value, dict) else value for key, value in tokens.items()}
    return {key: text for key, text in texts.items() if isinstance(text, str)}


def special_ids(folder: Path) -> dict[str, int | None]:
    """Return the ids of bos_token, eos_token, …, with None for a token that the vocabulary lacks.

    Raises HexportError where a file of `scripts/extract_tokenizer.py` is missing or malformed.
    """
    backend, config = load_backend(folder / "tokenizer.json"), read_json(folder / "tokenizer_config.json")
    return {name: backend.token_to_id(text) for name, text in special_tokens(config).items()}
