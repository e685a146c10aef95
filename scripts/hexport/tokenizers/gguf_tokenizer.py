"""This module builds a tokenizer from the metadata of a GGUF file: byte-level BPE, or SentencePiece's pieces.

Keys and token types are those of llama.cpp's src/llama-vocab.cpp and conversion/base.py.
"""

from pathlib import Path

from gguf import TokenType
from tokenizers import AddedToken, Tokenizer

from hexport.checkpoints.gguf_file import GgufFile, open_gguf
from hexport.errors import HexportError, one_line
from hexport.tokenizers.byte_level import PRE_TYPES, PreType, byte_level_tokenizer
from hexport.tokenizers.pieces import SPACE, Pieces, build_tokenizer
from hexport.tokenizers.tokenizer import AS_IT_IS

# Control tokens of Phi-3 and Phi-4 take the white space after them, except for these. No key of the file says so:
# llama.cpp goes by the model's name. The published tokenizer.json files agree.
KEEP_SPACE = {"<unk>", "<s>", "<|endoftext|>", "<|endofprompt|>"}


def read_gguf_tokenizer(path: Path) -> tuple[Tokenizer, dict]:
    """Return the tokenizer of a GGUF file and its tokenizer_config.json.

    Raises HexportError for a kind of vocabulary that is not known, and for metadata that is missing or does not fit.
    """
    file = open_gguf(path)
    model = file.text("tokenizer.ggml.model")
    if model not in ("gpt2", "llama"):
        raise HexportError(
            f"{path}: tokenizer.ggml.model is {model!r}; supported: 'gpt2' (byte-level BPE), 'llama' (SentencePiece)"
        )
    tokens, types = file.texts("tokenizer.ggml.tokens"), file.numbers("tokenizer.ggml.token_type", "iu")
    if not tokens or len(types) != len(tokens) or len(set(tokens)) != len(tokens):
        raise HexportError(f"{path}: tokenizer.ggml.tokens and token_type are missing or do not fit each other")
    if unknown := set(types) - set(TokenType):
        raise HexportError(f"{path}: tokenizer.ggml.token_type has {min(unknown)}, which is no type of token")
    if model == "llama":
        return _pieces_tokenizer(file, tokens, types), _config(file, tokens, adds_bos=True)
    if (name := file.text("tokenizer.ggml.pre")) not in PRE_TYPES:
        raise HexportError(f"{path}: tokenizer.ggml.pre is {name!r}; supported: {', '.join(PRE_TYPES)}")
    pre = PRE_TYPES[name]
    config = _config(file, tokens, pre.adds_bos)
    return _byte_level_tokenizer(file, tokens, types, pre), config


def _pieces_tokenizer(file: GgufFile, tokens: list[str], types: list[int]) -> Tokenizer:
    scores = file.numbers("tokenizer.ggml.scores", "f")
    if len(scores) != len(tokens) or types.count(TokenType.BYTE) != 256:
        raise HexportError(
            f"{file.path}: tokenizer.ggml.scores do not fit the tokens, or there are not 256 byte tokens"
        )
    # llama.cpp's converter writes the spaces of user-defined tokens as spaces, and not as SentencePiece's character.
    texts = [
        token.replace(" ", SPACE) if kind == TokenType.USER_DEFINED else token
        for token, kind in zip(tokens, types, strict=True)
    ]
    prefix = file.boolean("tokenizer.ggml.add_space_prefix", True)
    return build_tokenizer(Pieces(texts, scores, types, prefix, rstrip=_rstrip(file, tokens, types)), file.path)


def _byte_level_tokenizer(file: GgufFile, tokens: list[str], types: list[int], pre: PreType) -> Tokenizer:
    if not (merges := file.texts("tokenizer.ggml.merges")):
        raise HexportError(f"{file.path}: tokenizer.ggml.merges are missing")
    # Unused tokens are left out, as they only pad the vocabulary to the model's output size.
    vocabulary = {token: i for i, token in enumerate(tokens) if types[i] != TokenType.UNUSED}
    try:
        backend = byte_level_tokenizer(vocabulary, [tuple(merge.split(" ")) for merge in merges], pre)
    except Exception as error:  # the library raises plain Exception
        raise HexportError(f"{file.path}: tokenizer.ggml.merges do not fit the tokens: {one_line(error)}") from error
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


def _rstrip(file: GgufFile, tokens: list[str], types: list[int]) -> frozenset[str]:
    """Return the tokens that take the white space after them."""
    if file.text("general.architecture") != "phi3":
        return frozenset()
    control = (token for token, kind in zip(tokens, types, strict=True) if kind == TokenType.CONTROL)
    return frozenset(control) - KEEP_SPACE


def _config(file: GgufFile, tokens: list[str], adds_bos: bool) -> dict:
    """Return a tokenizer_config.json that has what transformers needs to load the tokenizer as it is.

    Its `stop_tokens` are the tokens that end a turn.
    """

    def token(key: str) -> str | None:
        index = file.integer(f"tokenizer.ggml.{key}")
        if index is not None and not 0 <= index < len(tokens):
            raise HexportError(f"{file.path}: tokenizer.ggml.{key} is {index}, but there are {len(tokens)} tokens")
        return None if index is None else tokens[index]

    config = {
        "bos_token": token("bos_token_id"),
        "eos_token": token("eos_token_id"),
        "unk_token": token("unknown_token_id"),
        "pad_token": token("padding_token_id"),
        "chat_template": file.text("tokenizer.chat_template"),
    }
    adds_bos = file.boolean("tokenizer.ggml.add_bos_token", adds_bos)
    if adds_bos and config["bos_token"] is None:
        raise HexportError(f"{file.path}: tokenizer.ggml.add_bos_token is set, but there is no bos_token_id")
    return {
        **{key: value for key, value in config.items() if value is not None},
        **AS_IT_IS,
        "add_bos_token": adds_bos,
        "stop_tokens": [text for key in ("eot_token_id", "eom_token_id") if (text := token(key)) is not None],
    }
