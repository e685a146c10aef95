"""This module reads the key `prompts` of a model: texts, which are the turns of one conversation; lists of texts, a
conversation each; or the path of a JSON file that holds either."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from hexport.config.schema import cut, raise_all, schema, schema_errors
from hexport.errors import HexportError
from hexport.json_file import parse_json
from hexport.regular_file import read_bytes

MAX_FILE_BYTES = 1 << 20  # about as much as config.yaml may have
MAX_TEXTS = 20_000


def conversations_of(prompts: list[str] | list[list[str]]) -> list[list[str]]:
    """Return the turns of each conversation, from a config's prompts or those in a run's settings."""
    return [prompts] if prompts and isinstance(prompts[0], str) else prompts


def prompts_of(conversations: list[list[str]]) -> list[str] | list[list[str]]:
    """Return prompts from conversations, the opposite of `conversations_of`. One conversation is a list of texts,
    however it was given."""
    return conversations[0] if len(conversations) == 1 else conversations


def with_read_prompts(entries: Mapping[str, dict], source: str) -> dict[str, dict]:
    """Return the entries of models, by name, with a file's content in the place of its path. The entries must fit the
    schema.

    Raises HexportError with a line for each fault; `source` names the file that the entries are from.
    """
    found, faults = {}, []
    for name, entry in entries.items():
        found[name], where = entry, f"models.{name}.prompts"
        if isinstance(prompts := entry.get("prompts"), str):
            try:
                found[name] = entry | {"prompts": _read(prompts)}
            except HexportError as error:
                faults += [f"{where}: {line}" for line in error.lines]
        elif prompts:
            faults += [f"{where}{fault}" for fault in _unlike(prompts)]
    raise_all(source, faults)
    return found


def _read(file: str) -> list:
    """Return the prompts in a JSON file. Raises HexportError, with a line for each fault, for a file that
    holds none."""
    if not os.path.exists(file):
        raise HexportError(f'{cut(file)}: no such file; name a JSON file, or put a text into a list, ["…"]')
    prompts = parse_json(read_bytes(Path(file), MAX_FILE_BYTES), file)
    if isinstance(prompts, list):
        n_texts = sum(len(item) if isinstance(item, list) else 1 for item in prompts)
        if n_texts > MAX_TEXTS:
            raise HexportError(f"{file}: has {n_texts:,} texts, and {MAX_TEXTS:,} are the most; leave some out")
    items = schema("config")["$defs"]["prompt"]
    raise_all(file, schema_errors(prompts, {"type": "array", "minItems": 1, "items": items}))
    raise_all(file, _unlike(prompts))
    return prompts


def _unlike(prompts: list) -> Iterator[str]:
    """Yield a fault for the first item that is no text among texts, or a text among lists of them."""
    kinds = [isinstance(item, str) for item in prompts]
    if len(set(kinds)) == 2:
        expected, got = ("text", "a list") if kinds[0] else ("a list", "text")
        yield f"[{kinds.index(not kinds[0])}]: expected {expected}, like what stands before it, got {got}"
