"""A tokenizer.json as the tokenizers library sees it, and the special tokens of its tokenizer_config.json."""

from pathlib import Path

import tokenizers

from hexport.errors import HexportError
from hexport.json_file import read_json
from hexport.regular_file import read_bytes
from hexport.tokenizers.library import one_line_library_errors, panics_unsaid

MAX_BYTES = 256 << 20  # of a tokenizer.json: the largest published one has 35 MB
PROBES = ("", "a b", "\u00e9\n")


def load_backend(path: Path) -> tokenizers.Tokenizer:
    """The tokenizers library's view of a tokenizer.json, without truncation or padding. Raises HexportError."""
    if not path.exists():
        raise HexportError(f"{path} is missing")
    text = read_bytes(path, MAX_BYTES)
    with one_line_library_errors(f"{path}: the tokenizers library cannot read it"), panics_unsaid():
        backend = tokenizers.Tokenizer.from_buffer(text)
        for sample in PROBES:  # a post-processor may name what is not there
            backend.encode(sample)
    if not backend.get_vocab_size():
        raise HexportError(f"{path}: has no vocabulary")
    backend.no_truncation()
    backend.no_padding()
    return backend


def special_tokens(config: dict) -> dict[str, str]:
    """bos_token, eos_token, … of a tokenizer_config.json as texts; it may hold them as AddedToken objects."""
    tokens = {key: value for key, value in config.items() if key.endswith("_token") and value}
    texts = {key: value.get("content") if isinstance(value, dict) else value for key, value in tokens.items()}
    return {key: text for key, text in texts.items() if isinstance(text, str)}


def special_ids(folder: Path) -> dict[str, int | None]:
    """Ids of bos_token, eos_token, …, None for one that the vocabulary lacks.

    Raises HexportError where a file of `scripts/extract_tokenizer.py` is missing or malformed.
    """
    backend, config = load_backend(folder / "tokenizer.json"), read_json(folder / "tokenizer_config.json")
    return {name: backend.token_to_id(text) for name, text in special_tokens(config).items()}
