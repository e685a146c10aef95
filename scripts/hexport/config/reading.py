"""This module finds the file that the config is read from, and puts the keys of the command line in the place of those
in it."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from hexport.config.documents import read_yaml
from hexport.errors import HexportError

CONFIG_FILE = "config.yaml"


def read_config(overrides: Mapping[str, object], configfiles: Sequence[Path]) -> tuple[dict, str]:
    """Return the config's content, and the name of its file for messages.

    `overrides` are the keys and values of --config. `file` among them names the file that is read in place of
    config.yaml; the others take the place of what the file says. `configfiles` are those of Snakemake's own option
    --configfile, which merges several; it has executed any template in them by now.

    Raises HexportError where a file cannot be read (`read_yaml`), and where both options name one.
    """
    overrides = dict(overrides)
    if configfiles and "file" in overrides:
        raise HexportError("--configfile and --config file=… both name a config; keep the second, which runs no code")
    file = overrides.pop("file", CONFIG_FILE)
    if not isinstance(file, str):
        raise HexportError("--config file=…: expected the path of a config; write a number as ./7")
    files = list(map(os.path.relpath, configfiles)) or [file]
    document: dict = {}
    for name in files:
        document = _merged(document, read_yaml(Path(name)))
    document = _merged(document, overrides)
    return _plain(document, "--config"), ", ".join(files)


def config_of_module(config: Mapping[str, object]) -> tuple[dict, str]:
    """Return the content of the config that another workflow gives, which takes this one as a module; and its name for
    messages.

    Raises HexportError where a value is nothing that a file can hold.
    """
    name = "config of module hexport"
    return _plain(dict(config), name), name


def _plain(document: dict, source: str) -> dict:
    """Return the document with values of their own in place of those that an alias shares. Raises HexportError for what
    no file can hold."""
    try:
        return json.loads(json.dumps(document, ensure_ascii=False).encode())
    except (TypeError, ValueError, RecursionError):
        raise HexportError(f"{source}: a value that is part of itself, is no text or is too deep; mend it") from None


def _merged(base: dict, other: Mapping) -> dict:
    """Return `base` with `other` over it: mappings key by key, all else as a whole."""
    found = dict(base)
    for key, value in other.items():
        old = found.get(key)
        found[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return found
