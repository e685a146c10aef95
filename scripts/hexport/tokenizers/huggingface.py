"""Reads the tokenizer files of a Hugging Face folder."""

from pathlib import Path

from tokenizers import Tokenizer

from hexport.checkpoints.json_file import read_json
from hexport.errors import HexportError
from hexport.tokenizers.tokenizer import AS_IT_IS, load_backend, special_tokens


def read_hf_tokenizer(file: Path) -> dict:
    """The tokenizer_config.json to go with a tokenizer.json, from the files beside it.

    It has the chat template inside, wherever it was, and as `stop_tokens` the EOS tokens that generation_config.json
    and config.json list. Raises HexportError for a file that is missing, malformed, or does not fit the others.
    """
    backend = load_backend(file)
    path = file.with_name("tokenizer_config.json")
    config = read_json(path) if path.is_file() else {}
    special = special_tokens(config)
    for key, token in special.items():
        if key in ("bos_token", "eos_token") and backend.token_to_id(token) is None:
            raise HexportError(f"{path}: {key} {token!r} is not in the vocabulary of {file}")
    config |= special | AS_IT_IS
    if template := _chat_template(config, file.parent):
        config["chat_template"] = template
    if config.get("add_bos_token") is None:
        first = backend.encode("").ids[:1]
        config["add_bos_token"] = bool(first) and first == [backend.token_to_id(special.get("bos_token", ""))]
    config["stop_tokens"] = _stop_tokens(backend, file.parent)
    return config


def tokenizer_files(source: Path) -> dict[str, Path]:
    """Name -> path of the tokenizer's files in a Hugging Face folder, or beside a tokenizer.json, that exist."""
    folder = source if source.is_dir() else source.parent
    names = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json", "config.json")
    return {name: folder / name for name in names if (folder / name).is_file()}


def _chat_template(config: dict, folder: Path) -> str | None:
    """The default template: a file of its own, or a key of the config, which may hold several by name."""
    if (file := folder / "chat_template.jinja").is_file():
        return file.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        return {entry["name"]: entry["template"] for entry in template}.get("default")
    return template


def _stop_tokens(backend: Tokenizer, folder: Path) -> list[str]:
    ids: list[int] = []
    for name in ("generation_config.json", "config.json"):
        if (path := folder / name).is_file():
            eos = read_json(path).get("eos_token_id")
            ids += eos if isinstance(eos, list) else [] if eos is None else [eos]
    # Some published lists name an id beyond the vocabulary: nothing can ever emit it.
    return sorted({token for id in ids if (token := backend.id_to_token(id)) is not None})
