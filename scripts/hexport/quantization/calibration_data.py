"""This module makes calibration samples, as token ids, of prompts, a text, chats or the set that comes with hexport."""

from collections.abc import Iterator
from itertools import chain, zip_longest
from pathlib import Path

from hexport.errors import HexportError
from hexport.json_file import parse_json
from hexport.quantization.calibration_set import CHATS, set_texts
from hexport.regular_file import read_bytes
from hexport.tokenizers.tokenizer import Tokenizer

MAX_CHATS_BYTES = 64 << 20  # this is far more than a calibration goes through
SAMPLE_TOKENS = 512  # the longest sample; what is longer becomes several samples
SET_TOKENS = 12288  # the most tokens taken of the set; for a tokenizer of many languages, this is all of it
FEW_TOKENS = 512  # calibration warns of fewer: they hardly show rare activations


def prompt_samples(tokenizer: Tokenizer, prompts: list[str], system_prompt: str) -> list[list[int]]:
    """Return the token ids that a run would feed for each prompt, in samples of at most SAMPLE_TOKENS.

    Raises HexportError where there are no prompts, and where one has no tokens.
    """
    if not prompts:
        raise HexportError("calibration: no prompts; give calibration: {prompts: […]} or {text: file.txt}")
    samples = [tokenizer.prompt_ids(prompt, system_prompt) for prompt in prompts]
    if [] in samples:
        raise HexportError(f"calibration: prompt {samples.index([]) + 1} of {len(prompts)} has no tokens")
    return [piece for ids in samples for piece in _pieces(ids, [])]


def text_samples(tokenizer: Tokenizer, text: str) -> list[list[int]]:
    """Return the token ids of a text, cut into samples, each with BOS in front where the tokenizer adds it.

    The text is encoded whole: if it were cut first, it could have other ids where its parts meet. Raises HexportError
    for a text of more characters than the tokenizer takes at once.
    """
    return _pieces(tokenizer.encode(text), [tokenizer.bos_id] if tokenizer.adds_bos else [])


def chat_samples(tokenizer: Tokenizer, path: Path) -> list[list[int]]:
    """Return the token ids of the chats in a JSON file, in the form that the model's chat template gives them.

    The file holds `[{"messages": [{"role": …, "content": …}, …]}, …]`. What the assistant said is part of a sample; a
    chat that ends with another's turn goes on up to where the assistant answers. Raises HexportError for a file of
    another form, for a chat that the template refuses or that has no tokens, and where the model has no chat template.
    """
    if tokenizer.chat_template is None:
        raise HexportError(f"{path}: this model has no chat template; calibrate it on prompts, text or tasks")
    return [piece for ids in _chats_ids(tokenizer, path) for piece in _pieces(ids, [])]


def set_samples(tokenizer: Tokenizer) -> list[list[int]]:
    """Return the token ids of the calibration set that comes with hexport, SET_TOKENS in all at most.

    The samples are the first text of each kind, then the second of each, and so on. Each is cut off behind
    SAMPLE_TOKENS. Chats are read as plain texts where the tokenizer has no chat template. Raises HexportError where the
    chat template refuses a chat.
    """
    kinds = [[sample for text in texts for sample in text_samples(tokenizer, text)[:1]] for texts in set_texts()]
    samples, room = [], SET_TOKENS
    for ids in chain.from_iterable(zip_longest(*kinds, _set_chats(tokenizer), fillvalue=[])):
        if sample := ids[: min(SAMPLE_TOKENS, room)]:
            samples.append(sample)
            room -= len(sample)
    return samples


def _set_chats(tokenizer: Tokenizer) -> list[list[int]]:
    if tokenizer.chat_template is None:
        texts = ["\n\n".join(message["content"] for message in messages) for messages in _chats(CHATS)]
        return [sample for text in texts for sample in text_samples(tokenizer, text)[:1]]
    try:
        return list(_chats_ids(tokenizer, CHATS))
    except HexportError as error:
        raise HexportError(f"{error}; name calibration data of your own (docs/calibration.md)") from error


def _chats_ids(tokenizer: Tokenizer, path: Path) -> Iterator[list[int]]:
    for number, messages in enumerate(_chats(path), 1):
        try:
            ids = tokenizer.chat_ids(messages, generation_prompt=messages[-1]["role"] != "assistant")
        except HexportError as error:
            raise HexportError(f"{path}: chat {number}: {error}") from error
        if not ids:
            raise HexportError(f"{path}: chat {number} has no tokens")
        yield ids


def _chats(path: Path) -> list[list[dict[str, str]]]:
    chats = parse_json(read_bytes(path, MAX_CHATS_BYTES), str(path))
    if not isinstance(chats, list) or not chats:
        raise HexportError(f'{path}: expected a list of chats, [{{"messages": […]}}, …]')
    for number, chat in enumerate(chats, 1):
        messages = chat.get("messages") if isinstance(chat, dict) else None
        if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
            raise HexportError(
                f'{path}: chat {number}: expected {{"messages": [{{"role": text, "content": text}}, …]}}, at least one'
            )
    return [chat["messages"] for chat in chats]


def _is_message(message: object) -> bool:
    return isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))


def _pieces(ids: list[int], start: list[int]) -> list[list[int]]:
    """Cut ids into samples of at most SAMPLE_TOKENS, each with `start` in front."""
    step = SAMPLE_TOKENS - len(start)
    return [start + ids[i : i + step] for i in range(0, len(ids), step)]
