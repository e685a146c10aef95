"""This module reads Llama 3's tokenizer.model, which is tiktoken's lines of base64 and rank.

The file leaves out the split into words and the special tokens; these are from Meta's llama3/llama/tokenizer.py.
"""

import base64
from pathlib import Path

import tiktoken
from tokenizers import AddedToken, Tokenizer

from hexport.errors import HexportError
from hexport.regular_file import read_bytes
from hexport.tokenizers.byte_level import LLAMA3_WORDS, PRE_TYPES, byte_level_tokenizer
from hexport.tokenizers.files import MAX_MODEL_BYTES
from hexport.tokenizers.merges import all_merges
from hexport.tokenizers.probe import check_equal

# Names among the 256 ids after the ranks, as in Llama 3.1 and 3.2. Llama 3.0 reserves some ids that these name.
NAMED = {
    0: "<|begin_of_text|>",
    1: "<|end_of_text|>",
    4: "<|finetune_right_pad_id|>",
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    8: "<|eom_id|>",
    9: "<|eot_id|>",
    10: "<|python_tag|>",
}
RESERVED = [i for i in range(256) if i not in NAMED]
SPECIAL = [NAMED.get(i) or f"<|reserved_special_token_{RESERVED.index(i)}|>" for i in range(256)]


def read_tiktoken(path: Path) -> tuple[Tokenizer, dict]:
    """Return the tokenizer, and the special tokens under their names in tokenizer_config.json, with add_bos_token.

    Raises HexportError for what is no such file, and where the tokenizer differs from the tiktoken library.
    """
    ranks = _read_ranks(path)
    characters = _byte_characters()
    vocabulary = {"".join(characters[byte] for byte in token): rank for token, rank in ranks.items()}
    backend = byte_level_tokenizer(vocabulary, all_merges(list(vocabulary), path), PRE_TYPES["llama-bpe"])
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    reference = tiktoken.Encoding("llama3", pat_str=LLAMA3_WORDS, mergeable_ranks=ranks, special_tokens={})
    check_equal(backend, reference.encode_ordinary, reference.decode, path)
    return backend, {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>", "add_bos_token": True}


def _read_ranks(path: Path) -> dict[bytes, int]:
    """Return the rank of each token, in the order of the ranks, which are the ids 0, 1, 2, …"""
    lines = [line.split() for line in read_bytes(path, MAX_MODEL_BYTES).splitlines()]
    try:
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in lines}
    except ValueError as error:
        raise HexportError(f"{path}: neither a SentencePiece model nor lines of base64 and rank, tiktoken's") from error
    if list(ranks.values()) != list(range(len(lines))):
        raise HexportError(f"{path}: the ranks of a tiktoken file must be 0, 1, 2, …; download it again")
    if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
        raise HexportError(f"{path}: a tiktoken file must have every byte as a token, but {missing[0]:#04x} is missing")
    return ranks


def _byte_characters() -> dict[int, str]:
    """Return the character that stands for each byte in the texts of byte-level BPE (gpt-2/src/encoder.py)."""
    printable = [byte for byte in range(256) if chr(byte).isprintable() and chr(byte) != " "]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
