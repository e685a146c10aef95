"""This module puts entries into files that users have written: comments, order and quotes stay."""

import io
import itertools
from pathlib import Path

import yaml as pyyaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from hexport.config.documents import read_yaml
from hexport.importing.entries import Entries

WIDTH = 4096  # characters; lines stay as they are


def merged_config(path: Path, entries: Entries) -> tuple[str, list[str]]:
    """Return the text of config.yaml with the entries, and a line for each value that is another one now. Modes and
    SoCs are added to those that are there. Raises HexportError where the file cannot be read."""
    document, changed = _document(path), []
    socs = document.setdefault("socs", _written([]))
    if not isinstance(socs, str) and entries.soc not in socs:  # a text is `all`
        socs.append(entries.soc)
    models = document.setdefault("models", {})
    if models.get(entries.name) is None:
        models[entries.name] = {}
    model = models[entries.name]
    for key, value in entries.model.items():
        old = model.get(key)
        if key == "modes" and old:
            value = [*old, *(mode for mode in value if mode not in old)]
        if old is not None and old != value and key != "modes":
            changed.append(f"models.{entries.name}.{key}: {value!r} in place of {old!r}")
        if old != value:
            model[key] = _written(value)
    return _text(document), changed


def merged_devices(path: Path, entries: Entries) -> str:
    """Return the text of devices.yaml with the device, which is changed where its serial number, or an emulator of its
    SoC, is there already. Raises HexportError where the file cannot be read."""
    document, (name, device) = _document(path), entries.device
    devices = document.setdefault("devices", {})
    key = "serial" if device["kind"] == "adb" else "soc"
    same = (
        known
        for known, entry in devices.items()
        if entry.get("kind") == device["kind"] and entry.get(key) == device[key]
    )
    found = next(same, None)
    if found is None:
        names = itertools.chain([name], (f"{name}-{i}" for i in itertools.count(2)))
        found = next(free for free in names if free not in devices)
    devices.setdefault(found, {}).update(device)
    return _text(document)


def _written(value: object) -> object:
    """Return a value as it is to be written: lists, and mappings in a model, take one line each."""
    if isinstance(value, list):
        found = CommentedSeq(_quoted(each) if isinstance(each, str) else each for each in value)
    elif isinstance(value, dict):
        found = CommentedMap({key: _written(each) for key, each in value.items()})
    else:
        return value
    found.fa.set_flow_style()
    return found


def _quoted(text: str) -> str:
    """Return a text in quotes, unless PyYAML, which hexport reads with, reads it as it is in a list. It does not read
    `blue?`, which ruamel writes without quotes."""
    try:
        is_plain = pyyaml.safe_load(f"[{text}]") == [text]
    except pyyaml.YAMLError:
        is_plain = False
    return text if is_plain else DoubleQuotedScalarString(text)


def _document(path: Path) -> dict:
    if not path.exists():
        return {}
    read_yaml(path)  # which is stricter
    return _yaml().load(path.read_text(encoding="utf-8"))


def _text(document: dict) -> str:
    text = io.StringIO()
    _yaml().dump(document, text)
    return text.getvalue()


def _yaml() -> YAML:
    yaml = YAML()
    yaml.width, yaml.preserve_quotes = WIDTH, True
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml
