"""This module reads the files beside a tokenizer in a Hugging Face folder.

They hold its special tokens, its chat template, and the tokens that end a turn.
"""

from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from hexport.errors import HexportError
from hexport.json_file import MAX_BYTES, read_json
from hexport.regular_file import read_bytes
from hexport.tokenizers.backend import special_tokens
from hexport.tokenizers.tokenizer import AS_IT_IS

ADDED_TOKEN_KEYS = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")


def read_tokenizer_config(backend: Tokenizer, folder: Path, defaults: dict) -> dict:
    """Return the tokenizer_config.json of a tokenizer, made from the files of its folder.

    `defaults` stand for keys that these files lack. The result has the chat template inside, whichever file held it.
    Its `stop_tokens` are the EOS tokens that generation_config.json and config.json list. Raises HexportError for a
    file that is malformed or does not fit the others.
    """
    # Older versions of transformers wrote special_tokens_map.json, before tokenizer_config.json held all of it.
    config = {**defaults, **_read(folder / "special_tokens_map.json"), **_read(folder / "tokenizer_config.json")}
    special = special_tokens(config)
    path = folder / "tokenizer_config.json"
    for key in ("bos_token", "eos_token"):
        if key not in special and config.get(key) not in (None, "", {}):
            raise HexportError(f"{path}: {key} must be a text, found {config[key]!r}")
        if key in special and backend.token_to_id(special[key]) is None:
            raise HexportError(f"{path}: {key} {special[key]!r} is not in the vocabulary")
    config |= special | AS_IT_IS
    config["chat_template"] = _chat_template(config, folder)
    config["add_bos_token"] = _adds_bos(
        backend, special, path, config.get("add_bos_token"), defaults.get("add_bos_token")
    )
    config["stop_tokens"] = _stop_tokens(backend, folder)
    return {key: value for key, value in config.items() if value is not None}


def add_listed_tokens(backend: Tokenizer, folder: Path) -> None:
    """Add the tokens that tokenizer_config.json and added_tokens.json list and that a tokenizer.model does not have.

    Raises HexportError where an id is taken by another text, or leaves a gap behind the vocabulary.
    """
    path = folder / "tokenizer_config.json"
    try:
        listed = {int(id): AddedToken(text, special=True) for text, id in _read(folder / "added_tokens.json").items()}
        for id, token in _read(path).get("added_tokens_decoder", {}).items():
            listed[int(id)] = AddedToken(**{key: token[key] for key in ADDED_TOKEN_KEYS if key in token})
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise HexportError(f"{path}: added_tokens_decoder, or added_tokens.json, is malformed: {error}") from error
    size = backend.get_vocab_size()
    for id, token in sorted(listed.items()):
        if id >= size or token.special:
            backend.add_tokens([token])
        if (found := backend.id_to_token(id)) != token.content:
            raise HexportError(f"{path}: lists token {id} as {token.content!r}, but tokenizer.model has {found!r}")


def _read(path: Path) -> dict:
    return read_json(path) if path.is_file() else {}


def _adds_bos(backend: Tokenizer, special: dict[str, str], path: Path, *said: bool | None) -> bool:
    """Return what the first of the files says that says anything, or else what the tokenizer does."""
    if "bos_token" not in special:
        return False
    if wrong := [adds for adds in said if type(adds) not in (bool, type(None))]:
        raise HexportError(f"{path}: add_bos_token must be true or false, found {wrong[0]!r}")
    does = backend.encode("").ids[:1] == [backend.token_to_id(special["bos_token"])]
    return next((adds for adds in said if adds is not None), does)


def _chat_template(config: dict, folder: Path) -> str | None:
    """Return the default template: a file of its own, or a key of the config, which may hold several by name."""
    if (file := folder / "chat_template.jinja").is_file():
        try:
            return read_bytes(file, MAX_BYTES).decode()
        except UnicodeDecodeError as error:
            raise HexportError(f"{file}: not UTF-8 text") from error
    template = config.get("chat_template") or _read(folder / "chat_template.json").get("chat_template")
    if isinstance(template, list) and all(isinstance(e, dict) and isinstance(e.get("name"), str) for e in template):
        template = {entry.get("name"): entry.get("template") for entry in template}.get("default")
    if not isinstance(template, str | None):
        raise HexportError(f"{folder}: chat_template is neither a text nor a list of name and template")
    return template


def _stop_tokens(backend: Tokenizer, folder: Path) -> list[str]:
    ids: list[int] = []
    for name in ("generation_config.json", "config.json"):
        eos = _read(folder / name).get("eos_token_id")
        ids += eos if isinstance(eos, list) else [] if eos is None else [eos]
    if wrong := [id for id in ids if not (type(id) is int and 0 <= id < 2**32)]:
        raise HexportError(f"{folder}: eos_token_id of generation_config.json or config.json has {wrong[0]!r}, no id")
    # Some published lists name an id beyond the vocabulary, which nothing can ever emit.
    return sorted({token for id in ids if (token := backend.id_to_token(id)) is not None})
