"""Builds a tokenizer from the metadata of a GGUF file: byte-level BPE, or SentencePiece's pieces.

Keys and token types: llama.cpp's src/llama-vocab.cpp and conversion/base.py.
"""

import struct
from pathlib import Path

from gguf import GGUFReader, GGUFValueType, TokenType
from tokenizers import AddedToken, Tokenizer

from hexport.checkpoints.gguf_file import metadata, open_gguf
from hexport.errors import HexportError
from hexport.tokenizers.byte_level import PRE_TYPES, PreType, byte_level_tokenizer
from hexport.tokenizers.pieces import SPACE, Pieces, build_tokenizer
from hexport.tokenizers.tokenizer import AS_IT_IS

# Control tokens of Phi-3 and Phi-4 take the white space after them, but for these. No key says so: llama.cpp goes by
# the model's name, and so do the published tokenizer.json files.
KEEP_SPACE = {"<unk>", "<s>", "<|endoftext|>", "<|endofprompt|>"}


def read_gguf_tokenizer(path: Path) -> tuple[Tokenizer, dict]:
    """The tokenizer and its tokenizer_config.json. Raises HexportError for a kind of vocabulary that is not known."""
    file = open_gguf(path)
    model = metadata(file, "tokenizer.ggml.model")
    if model not in ("gpt2", "llama"):
        raise HexportError(
            f"{path}: tokenizer.ggml.model is {model!r}; supported: 'gpt2' (byte-level BPE), 'llama' (SentencePiece)"
        )
    tokens, types = _strings(file, path, "tokens"), metadata(file, "tokenizer.ggml.token_type", [])
    if not tokens or len(types) != len(tokens) or len(set(tokens)) != len(tokens):
        raise HexportError(f"{path}: tokenizer.ggml.tokens and token_type are missing or do not fit each other")
    if model == "llama":
        return _pieces_tokenizer(file, path, tokens, types), _config(file, path, tokens, adds_bos=True)
    pre = _pre_type(file, path)
    config = _config(file, path, tokens, pre.adds_bos)
    return _byte_level_tokenizer(file, path, tokens, types, pre), config


def _pieces_tokenizer(file: GGUFReader, path: Path, tokens: list[str], types: list[int]) -> Tokenizer:
    scores = metadata(file, "tokenizer.ggml.scores", [])
    if len(scores) != len(tokens) or types.count(TokenType.BYTE) != 256:
        raise HexportError(f"{path}: tokenizer.ggml.scores do not fit the tokens, or there are not 256 byte tokens")
    # llama.cpp's converter writes the spaces of user-defined tokens as they are in a text.
    texts = [
        token.replace(" ", SPACE) if kind == TokenType.USER_DEFINED else token
        for token, kind in zip(tokens, types, strict=True)
    ]
    prefix = metadata(file, "tokenizer.ggml.add_space_prefix", True)
    return build_tokenizer(Pieces(texts, scores, types, prefix, rstrip=_rstrip(file, tokens, types)), path)


def _pre_type(file: GGUFReader, path: Path) -> PreType:
    name = metadata(file, "tokenizer.ggml.pre")
    if name not in PRE_TYPES:
        raise HexportError(f"{path}: tokenizer.ggml.pre is {name!r}; supported: {', '.join(PRE_TYPES)}")
    return PRE_TYPES[name]


def _byte_level_tokenizer(file: GGUFReader, path: Path, tokens: list[str], types: list[int], pre: PreType) -> Tokenizer:
    if not (merges := _strings(file, path, "merges")):
        raise HexportError(f"{path}: tokenizer.ggml.merges are missing")
    # Unused tokens only pad the vocabulary to the model's output size.
    vocabulary = {token: i for i, token in enumerate(tokens) if types[i] != TokenType.UNUSED}
    try:
        backend = byte_level_tokenizer(vocabulary, [tuple(merge.split(" ")) for merge in merges], pre)
    except Exception as error:  # the library raises plain Exception
        what = " ".join(str(error).split())
        raise HexportError(f"{path}: tokenizer.ggml.merges do not fit the tokens: {what}") from error
    rstrip = _rstrip(file, tokens, types)
    special = {TokenType.CONTROL: True, TokenType.USER_DEFINED: False}
    backend.add_tokens(
        [
            AddedToken(token, normalized=False, special=special[kind], rstrip=token in rstrip)
            for token, kind in zip(tokens, types, strict=True)
            if kind in special
        ]
    )
    return backend


def _rstrip(file: GGUFReader, tokens: list[str], types: list[int]) -> frozenset[str]:
    """The tokens that take the white space after them."""
    if metadata(file, "general.architecture") != "phi3":
        return frozenset()
    control = (token for token, kind in zip(tokens, types, strict=True) if kind == TokenType.CONTROL)
    return frozenset(control) - KEEP_SPACE


def _strings(file: GGUFReader, path: Path, key: str) -> list[str]:
    """A list of strings of tokenizer.ggml.*, from where HeaderReader leaves them in the file."""
    field = file.get_field(f"tokenizer.ggml.{key}")
    if field is None or field.types != [GGUFValueType.ARRAY, GGUFValueType.STRING]:
        return []
    data, offset = memoryview(file.data), field.offset + sum(part.nbytes for part in field.parts)
    texts = []
    try:
        for _ in range(int(field.parts[-1][0])):
            (length,) = struct.unpack_from("<Q", data, offset)
            texts.append(str(data[offset + 8 : offset + 8 + length], "utf-8"))
            offset += 8 + length
    except UnicodeDecodeError as error:
        raise HexportError(f"{path}: tokenizer.ggml.{key}: item {len(texts)} is not UTF-8") from error
    return texts


def _config(file: GGUFReader, path: Path, tokens: list[str], adds_bos: bool) -> dict:
    """tokenizer_config.json: what transformers needs to load the tokenizer as it is, and the tokens that end a turn."""

    def token(key: str) -> str | None:
        index = metadata(file, f"tokenizer.ggml.{key}")
        if index is not None and index >= len(tokens):
            raise HexportError(f"{path}: tokenizer.ggml.{key} is {index}, but there are {len(tokens)} tokens")
        return None if index is None else tokens[index]

    config = {
        "bos_token": token("bos_token_id"),
        "eos_token": token("eos_token_id"),
        "unk_token": token("unknown_token_id"),
        "pad_token": token("padding_token_id"),
        "chat_template": metadata(file, "tokenizer.chat_template"),
    }
    adds_bos = metadata(file, "tokenizer.ggml.add_bos_token", adds_bos)
    if adds_bos and config["bos_token"] is None:
        raise HexportError(f"{path}: tokenizer.ggml.add_bos_token is set, but there is no bos_token_id")
    return {
        **{key: value for key, value in config.items() if value is not None},
        **AS_IT_IS,
        "add_bos_token": adds_bos,
        "stop_tokens": [text for key in ("eot_token_id", "eom_token_id") if (text := token(key)) is not None],
    }
