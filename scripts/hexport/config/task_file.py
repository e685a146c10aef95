"""This module tells which files an lm-eval task file consists of, without running any of it. It imports little, as the
Snakefile asks it."""

from collections.abc import Iterator
from pathlib import Path

import yaml

from hexport.config.documents import MAX_BYTES, BoundedLoader


def task_file_parts(path: Path) -> list[Path]:
    """Return the task file; the YAML files that it includes; Python modules beside it that its `!function` tags name;
    and data files of this machine in its `data_files`. Each of these is there, but for the task file itself.

    What only its code or its templates know of is not among them, and a file that is not YAML has no parts.
    """
    found = [path]
    for file in found:  # grows as it goes
        found += [part for part in _parts(file) if part not in found and part.is_file()]
    return found


class _TaskLoader(BoundedLoader):
    """A task loader reads `!function module.name` as a `_Function`, and any other tag as nothing."""


class _Function(str):
    __slots__ = ()


_TaskLoader.add_constructor("!function", lambda loader, node: _Function(loader.construct_scalar(node)))
_TaskLoader.add_multi_constructor("", lambda loader, suffix, node: None)


def _parts(path: Path) -> Iterator[Path]:
    if path.suffix not in (".yaml", ".yml"):
        return
    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.load(file.read(MAX_BYTES), _TaskLoader)
    except (OSError, ValueError, yaml.YAMLError):
        return  # lm-eval will say so, with the reason
    if not isinstance(content, dict):
        return
    for name in _texts(content.get("include")):
        yield path.parent / name
    arguments = content.get("dataset_kwargs")
    for name in _texts(arguments.get("data_files")) if isinstance(arguments, dict) else ():
        yield Path(name)  # from the working folder, as datasets takes it
    for value in _texts(content):
        if isinstance(value, _Function):
            yield path.parent / f"{value.rpartition('.')[0].replace('.', '/')}.py"


def _texts(value: object) -> Iterator[str]:
    match value:
        case str():
            yield value
        case list():
            for item in value:
                yield from _texts(item)
        case dict():
            for item in value.values():
                yield from _texts(item)
