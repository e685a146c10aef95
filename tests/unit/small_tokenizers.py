"""Small tokenizers with the pipelines that the model families publish, trained on a few lines."""

import json

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

CORPUS = [
    "Once upon a time there was 1 fox, 22 hens and 1234567 ants; don't we'll I'VE they're x² ½ ٣.",
    "    indented\tcode = [0, 1];\r\n\r\n\n  return   x  \n",
    "Größe, naïve café, e\u0301, Ελληνικά, русский язык, עברית, العربية, हिन्दी, ไทย, 中文字符, 日本語, 한국어",
    "😀👨‍👩‍👧🇩🇪 \x00\x01\x7f\u200b\ufeff <|im_start|>",
]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
USER_DEFINED = "<tool_call>"
UNMERGED = " zebra"  # a token that no merges lead to: only ignore_merges finds it

# The stages of the models' own tokenizer.json: SmolLM2, Llama 3.2, Qwen 2.5, GPT-2.
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
REGEX_BYTES = {**BYTES, "use_regex": True}
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
PUNCTUATION = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def split(regex: str) -> dict:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


PIPELINES = {
    "gpt-2": [REGEX_BYTES],
    "smollm": [{"type": "Digits", "individual_digits": True}, REGEX_BYTES],
    "llama-bpe": [split(CONTRACTIONS + r"\p{N}{1,3}" + PUNCTUATION), BYTES],
    "qwen2": [split(CONTRACTIONS + r"\p{N}" + PUNCTUATION), BYTES],
}


def reference(pre: str) -> Tokenizer:
    """A small tokenizer with the pipeline that a model family publishes."""
    backend = Tokenizer(models.BPE())
    stages = json.loads(backend.to_str())
    stages["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": PIPELINES[pre]}
    stages["normalizer"] = {"type": "NFC"} if pre == "qwen2" else None
    stages["model"]["ignore_merges"] = pre == "llama-bpe"
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
