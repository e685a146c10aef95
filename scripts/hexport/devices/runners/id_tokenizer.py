"""This module makes the tokenizer that the C++ runner is given. The text of a token is its id, so that what the runner
writes tells the ids.

The model's own tokenizer would not do: ids cannot be told for sure from text. And the runner's tokenizer library
decodes each token by itself. So it loses the spaces of Llama 2's pieces, takes id 0 for the end of a text where
tokenizer.json leaves that open (in Qwen 3, "!"), and fails at ids that a padded vocabulary has no text for.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from hexport.tokenizers.tokenizer import Tokenizer

# A generation ends at the tokenizer's eos_token, and at what the runner adds for Gemma, which it looks up by text.
EOS, END_OF_TURN = "<eos>", "<end_of_turn>"
WORD = re.compile(rb"\d{1,9} |<eos>|<end_of_turn>")
PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}  # how an added token is found


@dataclass(frozen=True)
class IdTokenizer:
    """An ID tokenizer has `vocab_size` ids, whose texts are these ids. The runner stops at `eos` and `end_of_turn`.
    Where the model has fewer stop ids, one beyond the vocabulary takes their place, which never comes.
    """

    vocab_size: int
    eos: int
    end_of_turn: int

    @classmethod
    def of(cls, tokenizer: Tokenizer, vocab_size: int) -> "IdTokenizer":
        """Return the tokenizer whose two stop ids are the first ones of the model's, its EOS before the others.

        At further stop ids the runner goes on, and its caller cuts the answer off.
        """
        stops = sorted(tokenizer.stop_ids, key=lambda id: (id != tokenizer.eos_id, id))
        eos, end_of_turn, *_ = [*stops, vocab_size, vocab_size + 1]
        return cls(vocab_size, eos, end_of_turn)

    def write(self, folder: Path) -> list[Path]:
        """Write tokenizer.json and tokenizer_config.json, and return their paths. The same ids give the same bytes."""
        stops = {self.eos: EOS, self.end_of_turn: END_OF_TURN}
        added = [{"id": id, "content": text, "special": True, **PLAIN} for id, text in sorted(stops.items())]
        vocabulary = {stops.get(id, f"{id} "): id for id in sorted({*range(self.vocab_size), *stops})}
        model = {"type": "BPE", "vocab": vocabulary, "merges": [], "unk_token": None, "byte_fallback": False}
        stages = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
        contents = {
            "tokenizer.json": {"version": "1.0", **stages, "added_tokens": added, "model": model},
            "tokenizer_config.json": {"bos_token": EOS, "eos_token": EOS},
        }
        for name, content in contents.items():
            (folder / name).write_text(json.dumps(content), encoding="utf-8")
        return [folder / name for name in contents]

    def ids(self, text: bytes) -> list[int] | None:
        """Return the ids that a text was made of; None for any other text."""
        words, stops = WORD.findall(text), {EOS.encode(): self.eos, END_OF_TURN.encode(): self.end_of_turn}
        ids = [stops[word] if word in stops else int(word) for word in words]
        return ids if b"".join(words) == text and all(id < self.vocab_size for id in ids) else None
