"""This module builds byte-level BPE tokenizers, with the pipelines of the model families.

Their names are those of GGUF files (tokenizer.ggml.pre), from llama.cpp's src/llama-vocab.cpp and
convert_hf_to_gguf_update.py. The pipelines are those of the models' own tokenizer.json, to which llama.cpp's
expressions are equal.
"""

from dataclasses import dataclass

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Split

# Llama 3 and Qwen 2 share this expression, but for how many digits make a number: up to three, or one.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_WORDS = WORDS % "{1,3}"
QWEN2_WORDS = WORDS % ""
GPT4O_WORDS = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class PreType:
    """A pre type says how text is normalised and cut into words before BPE."""

    pre_tokenizers: tuple[PreTokenizer, ...]
    nfc: bool = False
    ignore_merges: bool = False  # whether a word that is a token is taken whole
    adds_bos: bool = False  # whether BOS goes in front, where the file does not say


def _words(regex: str) -> tuple[PreTokenizer, ...]:
    return Split(Regex(regex), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)


PRE_TYPES = {
    "gpt-2": PreType((ByteLevel(add_prefix_space=False),)),
    "smollm": PreType((Digits(individual_digits=True), ByteLevel(add_prefix_space=False))),
    "llama-bpe": PreType(_words(LLAMA3_WORDS), ignore_merges=True, adds_bos=True),
    "smaug-bpe": PreType(_words(LLAMA3_WORDS), ignore_merges=True),  # SmolLM3: Llama 3's words, no BOS
    "qwen2": PreType(_words(QWEN2_WORDS), nfc=True),
    "gpt-4o": PreType(_words(GPT4O_WORDS)),  # Phi-4-mini
}


def byte_level_tokenizer(vocabulary: dict[str, int], merges: list[tuple[str, str]], pre: PreType) -> Tokenizer:
    """Return a tokenizer with this vocabulary (text -> id), merges and pre type, and without special tokens.

    Raises the library's plain Exception where merges and vocabulary do not fit.
    """
    backend = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=pre.ignore_merges))
    if pre.nfc:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(list(pre.pre_tokenizers))
    backend.decoder = decoders.ByteLevel()
    return backend
