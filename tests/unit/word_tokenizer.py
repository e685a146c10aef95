"""A tokenizer of 48 words, w0 to w47, for models with a vocabulary of 50: <s> is 48, </s> is 49."""

import json
from pathlib import Path

import tokenizers

from hexport.tokenizers.tokenizer import Tokenizer, load_tokenizer

BOS, EOS = 48, 49


def save_word_tokenizer(folder: Path, **config) -> Tokenizer:
    """As `scripts/extract_tokenizer.py` would write it; `config` changes its tokenizer_config.json."""
    vocabulary = {**{f"w{i}": i for i in range(48)}, "<s>": BOS, "</s>": EOS}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="w0"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    known = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": False, "stop_tokens": []}
    (folder / "tokenizer_config.json").write_text(json.dumps({**known, **config}))
    return load_tokenizer(folder)


def words(ids: list[int]) -> str:
    return " ".join(f"w{i}" for i in ids)
