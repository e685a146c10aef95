"""The tables of docs/artifacts.md, held against real files, whose keys they have, no more and no fewer."""

import re
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "artifacts.md"
OPEN = ("keys with values", "list of")  # types whose insides are told elsewhere
INSIDES = {"encoding": "Encodings", "template": "A template has"}  # types that have tables of their own


@cache
def keys(section: str) -> dict[str, list[str]]:
    """Key -> the other cells, of the first table behind a heading or a line of text."""
    text = PAGE.read_text()
    (start,) = [match.end() for match in re.finditer(rf"^(?:#+ )?{re.escape(section)}$", text, re.MULTILINE)]
    (table,) = re.findall(r"\A.*?^\|[-|]+\|\n(.*?)(?:\n\n|\Z)", text[start:], re.MULTILINE | re.DOTALL)
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]
    return {key: cells for first, *cells in rows for key in re.findall(r"`([^`]+)`", first)}


def check(content: object, *sections: str, absent: Collection[str] = (), only: str | None = None) -> None:
    """Fail where a file's content has keys that no row of these tables has, or lacks a key that is not in `absent`.

    `only`: of a table that says which files have a key, the rows of this one.
    """
    found = {key: cells for section in sections for key, cells in keys(section).items()}
    if only is not None:
        found = {key: cells for key, cells in found.items() if cells[1] == "all" or only in cells[1].split(", ")}
    patterns = dict(_patterns(found))
    have = list(_leaves(content))
    unknown = [leaf for leaf in have if not any(_covers(key, kind, leaf) for key, kind in patterns.items())]
    missing = [key for key, kind in patterns.items() if not any(_covers(key, kind, leaf) for leaf in have)]
    missing = [key for key in missing if not key.startswith(tuple(absent))]
    assert unknown == missing == [], f"docs/artifacts.md: no row has {unknown}, and no file has {missing}"


def _patterns(found: dict[str, list[str]]) -> Iterator[tuple[str, str]]:
    for key, (kind, *_) in found.items():
        if kind in INSIDES:
            yield from ((f"{key}.{inner}", cells[0]) for inner, cells in keys(INSIDES[kind]).items())
        else:
            yield key, kind


def _covers(key: str, kind: str, leaf: str) -> bool:
    pattern = re.sub(r"<[^>]*>", lambda _: ".+", re.escape(key).replace(r"\<", "<").replace(r"\>", ">"))
    return re.fullmatch(pattern + (r"([.\[].*)?" if kind.startswith(OPEN) else ""), leaf) is not None


def _leaves(value: object, path: str = "") -> Iterator[str]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value:
        yield from dict.fromkeys(leaf for inner in value for leaf in _leaves(inner, f"{path}[]"))
    else:
        yield path
