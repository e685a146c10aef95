"""What goes wrong on a loopback device, by rules."""

import re
import threading
from dataclasses import dataclass, replace

OPERATIONS = {"any": ("push", "pull", "stat", "shell"), "sync": ("push", "pull", "stat")}


class Quit(Exception):
    """A fault ends this stream."""


@dataclass
class Fault:
    """`action` befalls operations `op` whose path or command the regex `match` is found in.

    `op` is push, pull, stat, shell, sync (the first three) or any (the first four). The first `skip` matches pass; then
    it fires `count` times, -1 for always, each after so many bytes of the file, or seconds of the command.

    drop: the link is cut. vanish: and cannot be made again for `secs`. hang: no answer any more, or for `secs`. fail: a
    push or pull ends with `message`; a command is not run, prints `message` and ends with `code`. enospc, erofs: a push
    ends as on a full or a read-only file system. corrupt: one bit is flipped. truncate: the rest of a file is left out.
    kill: SIGKILL to all of the session of the shell. noise: `message` on stderr. silent: neither output nor exit code
    are told.
    """

    action: str
    op: str = "any"
    match: str = ""
    after: float = 0
    count: int = 1
    skip: int = 0
    secs: float | None = None
    message: str = "loopback: injected failure"
    code: int = 1

    def fires(self, operation: str, subject: str) -> bool:
        """Whether it befalls this operation; counts."""
        if operation not in OPERATIONS.get(self.op, (self.op,)) or not self.count:
            return False
        if not re.search(self.match, subject):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.count > 0:
            self.count -= 1
        return True


class Faults:
    """The rules of a device."""

    def __init__(self) -> None:
        self._rules: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._rules.append(fault)

    def clear(self) -> None:
        with self._lock:
            self._rules = []

    def find(self, operation: str, subject: str) -> Fault | None:
        """The first rule for this operation, already counted."""
        with self._lock:
            for fault in self._rules:
                if fault.fires(operation, subject):
                    return replace(fault)
        return None
