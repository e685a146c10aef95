"""A case: inputs that are wrong in one way, and the command of ours that must refuse them."""

import copy
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import NamedTuple


class Call(NamedTuple):
    """A command line of one of `commands.COMMANDS`; `settings` go to the script as JSON, where it takes any."""

    command: str
    words: list[str]
    settings: dict | None = None


@dataclass(frozen=True)
class Case:
    """`prepare` writes the inputs into the folder that is current then, and says what to call on them.

    A case that `may_pass` is not wrong by construction: the command may accept it, but neither crash nor hang.
    """

    name: str
    prepare: Callable[[], Call]
    may_pass: bool = False


class Subject(NamedTuple):
    """One group of inputs. `named` are the faults that were once found, and those that a format invites; `any_other`
    makes one more of a random generator. Only some need torch, which is slow to import."""

    named: Callable[[], Iterator[Case]]
    any_other: Callable[[Random], Case]
    needs_torch: bool = False


# What text ever reads: none of these is valid UTF-8, JSON, YAML of a mapping, or base64.
RUBBISH = {
    "nothing": b"",
    "NUL bytes": bytes(64),
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "Latin-1": b'{"a": "\xe9"}',
    "an HTML page": b"<!DOCTYPE html><html><body>429 Too Many Requests</body></html>\n",
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
}
DEEP_JSON = {"deep lists": "[" * 200_000, "deep objects": '{"a":' * 200_000, "deep and whole": "[" * 9999 + "]" * 9999}
WRONG_TYPES = (None, True, 7, -1, 0.5, "x", "", [], [None], {}, {"x": 1}, [[1]], "\x1b[31mred\n", "\ud800")
EXTREMES = (0, -1, 2**31, 2**63, 2**64, 10**30, 10**400, 1e308, -1e308, float("inf"), float("-inf"), float("nan"))


def not_a_file(path: Path) -> dict[str, Callable[[], object]]:
    """Ways to put something that is no file of bytes in a file's place."""
    return {
        "a FIFO": lambda: os.mkfifo(path),
        "a folder": path.mkdir,
        "a link to itself": lambda: path.symlink_to(path.name),
        "a link to nothing": lambda: path.symlink_to("nothing"),
        "endless zeros": lambda: path.symlink_to("/dev/zero"),
        "64 MB of zeros": lambda: sparse(path, 64 << 20),
    }


def sparse(path: Path, size: int) -> None:
    with open(path, "wb") as file:
        file.truncate(size)


def put(path: Path, content: bytes | str | dict | list) -> Path:
    """Write a file in place of what is there; documents as JSON, where lone surrogates and NaN stay."""
    if isinstance(content, dict | list):
        content = json.dumps(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
    return path


def links(source: Path, folder: Path) -> Path:
    """A folder with links to the files of another one."""
    folder.mkdir(parents=True)
    for file in source.iterdir():
        (folder / file.name).symlink_to(file)
    return folder


def places(document: object, path: tuple = ()) -> Iterator[tuple]:
    """Paths of all values in a document."""
    for key, value in document.items() if isinstance(document, dict) else enumerate(document):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def with_value(document: dict, path: tuple, value: object) -> dict:
    changed = copy.deepcopy(document)
    at(changed, path[:-1])[path[-1]] = value
    return changed


def without(document: dict, path: tuple) -> dict:
    changed = copy.deepcopy(document)
    del at(changed, path[:-1])[path[-1]]
    return changed


def at(document: object, path: tuple) -> object:
    for key in path:
        document = document[key]
    return document


def mutated(document: dict, random: Random) -> tuple[str, dict]:
    """What was done to the document, and the outcome, which may be harmless."""
    path = random.choice(list(places(document)))
    where = ".".join(map(str, path))
    match random.randrange(5):
        case 0:
            return f"{where} left out", without(document, path)
        case 1:
            value = random.choice(EXTREMES)
            return f"{where}: {value!r:.40}", with_value(document, path, value)
        case 2:
            other = random.choice(list(places(document)))
            return f"{where}: as {'.'.join(map(str, other))}", with_value(document, path, at(document, other))
        case 3 if isinstance(at(document, path), list):
            factor = random.choice((2, 1000))
            return f"{where} {factor} times", with_value(document, path, at(document, path) * factor)
    value = random.choice(WRONG_TYPES)
    return f"{where}: {value!r}", with_value(document, path, value)


def damaged(data: bytes, random: Random, head: int | None = None) -> tuple[str, bytes]:
    """What was done to the bytes, and the outcome. `head` is where the most telling ones end."""
    end = random.choice((head, len(data))) if head else len(data)
    place = random.randrange(max(1, end))
    match random.randrange(6):
        case 0:
            return f"cut at byte {place}", data[:place]
        case 1:
            bit = random.randrange(8)
            return f"bit {bit} of byte {place} flipped", _replaced(data, place, bytes([data[place] ^ 1 << bit]))
        case 2:
            rubbish = random.randbytes(random.choice((1, 8, 100)))
            return f"{len(rubbish)} random bytes at {place}", _replaced(data, place, rubbish)
        case 3:
            return f"8 bytes of ones at {place}", _replaced(data, place, b"\xff" * 8)
        case 4:
            width = random.choice((1, 4, 256))
            return f"{width} bytes left out at {place}", data[:place] + data[place + width :]
    width = random.choice((1, 4, 256))
    return f"{width} bytes twice at {place}", data[: place + width] + data[place:]


def _replaced(data: bytes, place: int, part: bytes) -> bytes:
    return data[:place] + part + data[place + len(part) :]
