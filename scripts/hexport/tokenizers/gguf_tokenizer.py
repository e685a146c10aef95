"""Builds a tokenizer from the metadata of a GGUF file.

Token types and pre-tokenizers: llama.cpp's src/llama-vocab.cpp; the pipelines are those of the models' own
tokenizer.json, to which llama.cpp's expressions are equal.
"""

from dataclasses import dataclass
from pathlib import Path

from gguf import GGUFReader, TokenType
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Split

from hexport.checkpoints.gguf_file import metadata, open_gguf
from hexport.errors import HexportError
from hexport.tokenizers.tokenizer import AS_IT_IS

# One expression but for how many digits make a number: three (Llama 3) or one (Qwen 2).
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class PreType:
    """A value of tokenizer.ggml.pre: how text is normalised and cut into words before BPE."""

    pre_tokenizers: tuple[PreTokenizer, ...]
    nfc: bool = False
    ignore_merges: bool = False  # a word that is a token is taken whole
    adds_bos: bool = False  # where tokenizer.ggml.add_bos_token is absent


def _words(digits: str) -> tuple[PreTokenizer, ...]:
    split = Split(Regex(WORDS % digits), "isolated")
    return split, ByteLevel(add_prefix_space=False, use_regex=False)


PRE_TYPES = {
    "gpt-2": PreType((ByteLevel(add_prefix_space=False),)),
    "smollm": PreType((Digits(individual_digits=True), ByteLevel(add_prefix_space=False))),
    "llama-bpe": PreType(_words("{1,3}"), ignore_merges=True, adds_bos=True),
    "qwen2": PreType(_words(""), nfc=True),
}


def read_gguf_tokenizer(path: Path) -> tuple[Tokenizer, dict]:
    """The tokenizer and its tokenizer_config.json. Raises HexportError for a kind of vocabulary that is not known."""
    file = open_gguf(path, GGUFReader)
    if (model := metadata(file, "tokenizer.ggml.model")) != "gpt2":
        raise HexportError(f"{path}: tokenizer.ggml.model is {model!r}; supported: 'gpt2' (byte-level BPE)")
    name = metadata(file, "tokenizer.ggml.pre")
    if (pre := PRE_TYPES.get(name)) is None:
        raise HexportError(f"{path}: tokenizer.ggml.pre is {name!r}; supported: {', '.join(PRE_TYPES)}")
    lists = [metadata(file, f"tokenizer.ggml.{key}", []) for key in ("tokens", "token_type", "merges")]
    tokens, types, merges = lists
    if not all(lists) or len(types) != len(tokens) or len(set(tokens)) != len(tokens):
        raise HexportError(f"{path}: tokenizer.ggml.tokens, token_type or merges are missing or do not fit each other")
    config = _config(file, tokens, pre, path)
    # Unused tokens only pad the vocabulary to the model's output size.
    vocabulary = {tokens[i]: i for i, kind in enumerate(types) if kind != TokenType.UNUSED}
    try:
        bpe = models.BPE(vocabulary, [tuple(merge.split(" ")) for merge in merges], ignore_merges=pre.ignore_merges)
    except Exception as error:  # the library raises plain Exception
        what = " ".join(str(error).split())
        raise HexportError(f"{path}: tokenizer.ggml.merges do not fit the tokens: {what}") from error
    backend = Tokenizer(bpe)
    if pre.nfc:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(list(pre.pre_tokenizers))
    backend.decoder = decoders.ByteLevel()
    added = {TokenType.CONTROL: True, TokenType.USER_DEFINED: False}
    backend.add_tokens(
        [
            AddedToken(token, normalized=False, special=added[kind])
            for token, kind in zip(tokens, types, strict=True)
            if kind in added
        ]
    )
    if config["add_bos_token"]:
        bos = config["bos_token"]
        special = [(bos, vocabulary[bos])]
        backend.post_processor = processors.TemplateProcessing(single=[bos, "$A"], special_tokens=special)
    return backend, config


def _config(file: GGUFReader, tokens: list[str], pre: PreType, path: Path) -> dict:
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
    adds_bos = metadata(file, "tokenizer.ggml.add_bos_token", pre.adds_bos)
    if adds_bos and config["bos_token"] is None:
        raise HexportError(f"{path}: tokenizer.ggml.add_bos_token is set, but there is no bos_token_id")
    return {
        **{key: value for key, value in config.items() if value is not None},
        **AS_IT_IS,
        "add_bos_token": adds_bos,
        "stop_tokens": [text for key in ("eot_token_id", "eom_token_id") if (text := token(key)) is not None],
    }
