"""This module keeps what was computed of files, in this user's cache folder.

A line of a cache file is a checksum of its rest, a key and a text. Lines are only ever added, each by one write, so
processes may add at the same time and be killed in it: a damaged line counts as absent.
"""

import contextlib
import functools
import os
import re
import stat
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from hexport.errors import HexportError

MAX_BYTES = 4_000_000  # the most of a cache file; of a larger one, the newer half is kept
# A file that is written again within one tick of the file system's clock may keep the state that it had.
TICK_S, SECONDS_TICK_S = 0.02, 2.0
LINE = re.compile(rb"([0-9a-f]{8}) (([^\t\n]+)\t([^\n]*))\n")
SAFELY = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class TextCache:
    """A text cache holds texts of one line by keys of one line. All processes of this user share it in a file of this
    name."""

    def __init__(self, name: str):
        self._name = name
        self._texts: dict[str, str] = {}
        self._read: tuple[int, int] = 0, 0  # which file it was, and how much of it has been read

    def get(self, key: str) -> str | None:
        """Return the text that any process has put under this key; None where none has."""
        if key not in self._texts:
            self._load()
        return self._texts.get(key)

    def put(self, key: str, text: str) -> None:
        """Put a text under a key, for all processes. Where the cache folder cannot be written to, only this process has
        it."""
        rest = f"{key}\t{text}".encode()
        # The first end of line closes a line that a full disk has cut.
        line = b"\n%08x %s\n" % (zlib.crc32(rest), rest)
        self._texts[key] = text
        if folder := user_cache():
            with contextlib.suppress(OSError), open(folder / self._name, "ab", buffering=0, opener=_safely) as file:
                file.write(line)

    def _load(self) -> None:
        """Read what has been put since."""
        if (folder := user_cache()) is None:
            return
        with contextlib.suppress(OSError), open(folder / self._name, "rb", opener=_safely) as file:
            state = os.fstat(file.fileno())
            if not stat.S_ISREG(state.st_mode) or self._read == (state.st_ino, state.st_size):
                return
            known_file, n_read = self._read
            if known_file == state.st_ino and n_read < state.st_size <= MAX_BYTES:
                file.seek(n_read)
            self._read = state.st_ino, state.st_size
            lines = [line for line in LINE.finditer(file.read()) if int(line[1], 16) == zlib.crc32(line[2])]
            self._texts |= {line[3].decode(): line[4].decode() for line in lines}
            if state.st_size > MAX_BYTES:
                _replace(folder / self._name, b"".join(line[0] for line in lines[len(lines) // 2 :]))


class StatCache:
    """A stat cache holds texts of one kind, each computed of a file, by the state of that file.

    Those of files under `least_bytes` are sooner computed than looked up: only this process remembers them.
    """

    def __init__(self, name: str, least_bytes: int = 0):
        self._kept, self._least_bytes = TextCache(name), least_bytes
        self._own: dict[str, str] = {}

    def value(self, path: Path, compute: Callable[[BinaryIO], str]) -> str:
        """Return `compute` of the open file, or what it was when any process computed it of the file in this state.

        Raises HexportError for what is no regular file, and OSError.
        """
        with open(path, "rb", opener=_without_waiting) as file:
            before = os.fstat(file.fileno())
            if not stat.S_ISREG(before.st_mode):
                raise HexportError(f"{path}: not a regular file")
            key, shared = _key(before), before.st_size >= self._least_bytes
            if (known := self._kept.get(key) if shared else self._own.get(key)) is not None:
                return known
            if shared and (wait := _seconds_to_settle(before)) <= TICK_S:
                time.sleep(wait)
            settled = _seconds_to_settle(before) == 0
            value = compute(file)
            if settled and _key(os.fstat(file.fileno())) == key:
                if shared:
                    self._kept.put(key, value)
                else:
                    self._own[key] = value
        return value


def _key(state: os.stat_result) -> str:
    return f"{state.st_dev} {state.st_ino} {state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}"


def user_cache() -> Path | None:
    """Return $XDG_CACHE_HOME/hexport, with mode 0700; None where it is a link or another user's, or cannot be made."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return _private_folder(os.path.join(cache, "hexport")) if os.path.isabs(cache) else None


@functools.cache
def _private_folder(path: str) -> Path | None:
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        state = os.lstat(path)
        if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.geteuid():
            return None
        if stat.S_IMODE(state.st_mode) != 0o700:
            os.chmod(path, 0o700)
    except OSError:
        return None
    return Path(path)


def _seconds_to_settle(state: os.stat_result) -> float:
    """Return how long it is until any further write to the file is sure to give it another state; 0 where that is so
    already."""
    whole_seconds = state.st_mtime_ns % 10**9 == 0 and state.st_ctime_ns % 10**9 == 0
    since = (time.time_ns() - max(state.st_mtime_ns, state.st_ctime_ns)) / 1e9
    return max(0.0, (SECONDS_TICK_S if whole_seconds else TICK_S) - since)


def _safely(path: str, flags: int) -> int:
    return os.open(path, flags | SAFELY, 0o600)


def _without_waiting(path: str, flags: int) -> int:
    """Open a FIFO without waiting for who writes to it."""
    return os.open(path, flags | os.O_NONBLOCK)


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.unlink(missing_ok=True)
        with open(temporary, "xb", opener=_safely) as file:
            file.write(content)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
