"""This module makes room for Python's call stack.

CPython 3.11 keeps frames in chunks of 16 KB. A call that does not fit in the last chunk maps a new one, and its return
unmaps it. A loop whose calls happen to cross the end of a chunk does so each time: executorch's import, which reads a
YAML file, took 10 s in place of 4.
"""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
ROOM = 70_000  # pointers, more than half of 2^17: the chunk is 1 MB, and 460 KB of it are left for calls


def with_room(work: Callable[[], T]) -> T:
    """Return what `work()` returns. All frames below it fit in one chunk, which is mapped once."""
    return work()


with_room.__code__ = with_room.__code__.replace(co_stacksize=ROOM)
