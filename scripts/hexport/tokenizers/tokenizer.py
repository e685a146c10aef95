"""This module is the tokenizer of a model at run time. It needs neither torch nor transformers.

It is read from the tokenizer.json and tokenizer_config.json that `scripts/extract_tokenizer.py` writes.
"""

from dataclasses import dataclass
from pathlib import Path

import tokenizers

from hexport.errors import HexportError
from hexport.json_file import read_json
from hexport.tokenizers.backend import load_backend, special_tokens
from hexport.tokenizers.chat import render_chat
from hexport.tokenizers.library import one_line_library_errors

MAX_CHARACTERS = 16_000_000  # of a text: the library takes 100 bytes and more for each character
# Tokens that end a turn or a text in the chat formats of the known models.
END_TOKENS = {
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<end_of_turn>",
    "<eos>",
    "<|endoftext|>",
    "<|end_of_text|>",
}


# Keys of a tokenizer_config.json with which transformers takes tokenizer.json as it is. Other classes rebuild parts of
# it (GPT2Tokenizer, named by SmolLM2 and Phi-4-mini, drops their pre-tokenizers) or alter decoded text.
AS_IT_IS = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer turns text into token ids and back, and renders chats, equal to transformers' AutoTokenizer.

    `special` maps the names of transformers (bos_token, eos_token, …) to token texts. `adds_bos` says whether the
    tokenizer puts BOS in front of a text by itself. Generation ends at any of `stop_ids`.
    """

    backend: tokenizers.Tokenizer
    special: dict[str, str]
    chat_template: str | None
    bos_id: int | None
    eos_id: int | None
    stop_ids: frozenset[int]
    adds_bos: bool

    @property
    def vocab_size(self) -> int:
        """Return the highest token id plus 1. A model's output may be padded beyond it."""
        return max(self.backend.get_vocab().values()) + 1

    def encode(self, text: str, bos: bool = False) -> list[int]:
        """Return the ids of a text. Special tokens spelled out in it become their ids.

        `bos` puts BOS, if any, in front. Raises HexportError for a text of more than MAX_CHARACTERS, and for one with
        half of a surrogate pair.
        """
        if (n := len(text)) > MAX_CHARACTERS:
            most = f"at most {MAX_CHARACTERS // 10**6} million can be encoded"
            raise HexportError(f"a text of {n // 10**6} million characters: {most}; take a part of it")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise HexportError(f"character {error.start} of a text is half of a surrogate pair, no character") from None
        with one_line_library_errors("the tokenizer fails"):
            ids = self.backend.encode(text, add_special_tokens=False).ids
        return [self.bos_id, *ids] if bos and self.bos_id is not None else ids

    def decode(self, ids: list[int]) -> str:
        """Return the text of ids, with special tokens."""
        return self.backend.decode(ids, skip_special_tokens=False)

    def render(self, messages: list[dict[str, str]], generation_prompt: bool = True) -> str:
        """Return messages as the text that the model continues with the assistant's answer.

        A message is like `{"role": "user", "content": "Hello"}`. Without the generation prompt, the text ends with the
        last message. Raises HexportError where there is no chat template, or where it refuses the messages.
        """
        if self.chat_template is None:
            raise HexportError("this tokenizer has no chat template")
        return render_chat(self.chat_template, messages, self.special, generation_prompt)

    def prompt_ids(self, prompt: str, system_prompt: str = "") -> list[int]:
        """Return the ids that a run feeds for a prompt: a user turn of a chat if there is a template, else the text.

        An empty system prompt means no system message, so the template decides. Without a template, BOS goes in front
        where the tokenizer adds one. Raises HexportError for a system prompt without a template.
        """
        if self.chat_template is None:
            if system_prompt:
                raise HexportError("system_prompt is set, but this model has no chat template to put it in")
            return self.encode(prompt, bos=self.adds_bos)
        system = [{"role": "system", "content": system_prompt}] if system_prompt else []
        return self.chat_ids([*system, {"role": "user", "content": prompt}])

    def chat_ids(self, messages: list[dict[str, str]], generation_prompt: bool = True) -> list[int]:
        """Return the ids of a chat as `render` writes it. Raises HexportError as `render` and `encode` do."""
        return self.encode(self.render(messages, generation_prompt))


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load what `scripts/extract_tokenizer.py` wrote. Raises HexportError where a file is missing or malformed."""
    backend = load_backend(folder / "tokenizer.json")
    config = read_json(folder / "tokenizer_config.json")
    stops, template = config.get("stop_tokens"), config.get("chat_template")
    texts = isinstance(stops, list) and all(isinstance(text, str) for text in stops)
    if not texts or type(config.get("add_bos_token")) is not bool or not isinstance(template, str | None):
        raise HexportError(f"{folder}: tokenizer_config.json is not one that scripts/extract_tokenizer.py wrote")
    special = special_tokens(config)
    ids = {name: backend.token_to_id(text) for name, text in special.items()}
    # Some publishers name special tokens in this file alone. transformers keeps these whole in a text, too.
    added = {token.content for token in backend.get_added_tokens_decoder().values()}
    backend.add_special_tokens(
        [special[name] for name, id in ids.items() if id is not None and special[name] not in added]
    )
    stops = {backend.token_to_id(text) for text in END_TOKENS.union(stops)} | {ids.get("eos_token")}
    bos_id = ids.get("bos_token")
    if template is None:
        stops.add(bos_id)  # a text ends where the next one starts: llama2.c's stories have no other end
    return Tokenizer(
        backend=backend,
        special=special,
        chat_template=template,
        bos_id=bos_id,
        eos_id=ids.get("eos_token"),
        stop_ids=frozenset(stops - {None}),
        adds_bos=bos_id is not None and config["add_bos_token"],
    )
