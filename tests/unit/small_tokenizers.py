"""Small tokenizers with the pipelines that the model families publish, trained on a few lines."""

import functools
import io
import json

from click.testing import CliRunner
from sentencepiece import SentencePieceTrainer
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

import extract_tokenizer as script
from hexport.tokenizers.tokenizer import Tokenizer as RunTimeTokenizer
from hexport.tokenizers.tokenizer import load_tokenizer

CORPUS = [
    "Once upon a time there was 1 fox, 22 hens and 1234567 ants; don't we'll I'VE they're x² ½ ٣.",
    "    indented\tcode = [0, 1];\r\n\r\n\n  return   x  \n",
    "Größe, naïve café, e\u0301, Ελληνικά, русский язык, עברית, العربية, हिन्दी, ไทย, 中文字符, 日本語, 한국어",
    "😀👨‍👩‍👧🇩🇪 \x00\x01\x7f\u200b\ufeff <|im_start|>",
]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
USER_DEFINED = "<tool_call>"
UNMERGED = " zebra"  # a token that no merges lead to: only ignore_merges finds it

# The stages of the models' own tokenizer.json: SmolLM2, Llama 3.2, Qwen 2.5, Phi-4-mini, GPT-2.
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
REGEX_BYTES = {**BYTES, "use_regex": True}
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
PUNCTUATION = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3_WORDS = CONTRACTIONS + r"\p{N}{1,3}" + PUNCTUATION
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
GPT4O_WORDS = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split(regex: str, behavior: str = "Isolated", invert: bool = False) -> dict:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}


PIPELINES = {
    "gpt-2": [REGEX_BYTES],
    "smollm": [{"type": "Digits", "individual_digits": True}, REGEX_BYTES],
    "llama-bpe": [split(LLAMA3_WORDS), BYTES],
    "smaug-bpe": [split(LLAMA3_WORDS), BYTES],
    "qwen2": [split(CONTRACTIONS + r"\p{N}" + PUNCTUATION), BYTES],
    "gpt-4o": [split(GPT4O_WORDS, "Removed", invert=True), BYTES],
}


def reference(pre: str) -> Tokenizer:
    """A small tokenizer with the pipeline that a model family publishes."""
    backend = Tokenizer(models.BPE())
    stages = json.loads(backend.to_str())
    stages["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": PIPELINES[pre]}
    stages["normalizer"] = {"type": "NFC"} if pre == "qwen2" else None
    stages["model"]["ignore_merges"] = pre in ("llama-bpe", "smaug-bpe")
    backend = Tokenizer.from_str(json.dumps(stages))
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(CORPUS * 3, trainer)
    trained = json.loads(backend.to_str())
    trained["model"]["vocab"][UNMERGED.replace(" ", "Ġ")] = backend.get_vocab_size()
    backend = Tokenizer.from_str(json.dumps(trained))
    backend.add_tokens([AddedToken(USER_DEFINED, normalized=False, special=False)])
    return backend


# How SentencePiece models are trained: Llama 2's, Gemma's, and what else a *.model may say.
SYMBOLS = ["<sep>", "<sep>x", "<b>", "\n\n"]
SPACES = ["▁▁", "▁▁▁", "▁▁▁▁▁▁▁"]
AS_IT_IS = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "split_digits": True}
SENTENCEPIECE = {
    "llama": {**AS_IT_IS, "allow_whitespace_only_pieces": True},
    "llama with symbols": {**AS_IT_IS, "user_defined_symbols": [*SYMBOLS, *SPACES]},
    "gemma": {**AS_IT_IS, "add_dummy_prefix": False, "user_defined_symbols": [*SYMBOLS, *SPACES, "\n"]},
    "one space": {"normalization_rule_name": "identity"},
    "one space with symbols": {
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "user_defined_symbols": SYMBOLS,
    },
}


@functools.cache
def sentencepiece_model(kind: str) -> bytes:
    """A tokenizer.model that sentencepiece trained with one of `SENTENCEPIECE`."""
    return train_sentencepiece(**SENTENCEPIECE[kind])


def train_sentencepiece(**settings) -> bytes:
    lines = [line for text in CORPUS for line in text.replace("\0", "").splitlines() if line]
    trained = io.BytesIO()
    kind = {"model_type": "bpe", "vocab_size": 600, "byte_fallback": True, "character_coverage": 1.0, **settings}
    SentencePieceTrainer.train(sentence_iterator=iter(lines * 3), model_writer=trained, minloglevel=2, **kind)
    return trained.getvalue()


def convert(source, folder) -> RunTimeTokenizer:
    """The Tokenizer that scripts/extract_tokenizer.py makes of `source` in `folder`."""
    options = ["--settings", "-", "--source", source, "--output", folder / "tokenizer.json"]
    result = CliRunner().invoke(script.main, list(map(str, options)), input="{}", catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return load_tokenizer(folder)
