"""One job per phone at a time, across all processes and users of this machine: a locked file per phone.

The lock is the kernel's (flock), which frees it when its holder ends, however that ends, so no lease is ever stale. The
file's text tells who took the lease last and whether the phone is set aside. It guides people and the choice of a
phone, never the lock, so a torn or foreign text counts as none.
"""

import contextlib
import hashlib
import json
import os
import pwd
import sys
import time
from pathlib import Path

from filelock import FileLock, Timeout

from hexport.devices.adb import Phone
from hexport.devices.adb_server import LOCAL

# Not the folder of temporary files, which TMPDIR moves: all processes and users of this machine must see it.
FOLDER = Path("/tmp/hexport-leases")
SET_ASIDE_S = 300.0


class Lease:
    """A phone that this process alone uses, up to the end of the lease's block."""

    def __init__(self, phone: Phone, lock: FileLock):
        self.phone = phone
        self._path, self._lock = _path(phone), lock
        self._holder = {"pid": os.getpid(), "user": _user(), "what": Path(sys.argv[0]).name, "since": time.time()}
        self._write(*(set_aside(phone) or ()))

    def set_aside(self, reason: str) -> None:
        """Let other phones be preferred to this one, in all processes, for `SET_ASIDE_S` seconds."""
        self._write(reason, SET_ASIDE_S)

    def trust(self) -> None:
        """Set the phone aside no longer."""
        self._write()

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _write(self, reason: str = "", seconds: float = 0.0) -> None:
        # In place: in a sticky folder, nobody may replace another user's file.
        with open(self._path, "r+") as file:
            json.dump(self._holder | {"reason": reason, "until": time.time() + seconds}, file)
            file.truncate()


def lease(phone: Phone) -> Lease | None:
    """Lease a phone; None, without waiting, where it is leased already.

    Raises OSError where the folder of the leases cannot be written.
    """
    path = _path(phone)
    with contextlib.suppress(FileExistsError):
        path.parent.mkdir()
        path.parent.chmod(0o1777)  # every user's files, as in /tmp
    lock = _lock(path)
    try:
        lock.acquire()
    except Timeout:
        return None
    try:
        return Lease(phone, lock)
    except BaseException:
        lock.release()
        raise


def holder(phone: Phone) -> str | None:
    """Who leases a phone now, as one line; None if nobody does."""
    path = _path(phone)
    if not path.exists():
        return None
    try:
        with _lock(path):
            return None
    except Timeout:
        pass
    match _read(path):
        case {"pid": int(pid), "user": str(user), "what": str(what), "since": float(since)} if 0 <= since < 1e11:
            clock = time.strftime("%H:%M:%S", time.localtime(since))
            return _one_line(f"{what} of {user} (process {pid}), since {clock}")
    return "another process"


def set_aside(phone: Phone) -> tuple[str, float] | None:
    """Why a phone is set aside, and for how many more seconds; None if it is not."""
    match _read(_path(phone)):
        case {"reason": str(reason), "until": float(until)}:
            left = min(until - time.time(), SET_ASIDE_S)  # the clock may have been set back since
            if left > 0:
                return _one_line(reason), left
    return None


def _lock(path: Path) -> FileLock:
    return FileLock(path, blocking=False, mode=0o666, thread_local=False, fallback_to_soft=False)


def _path(phone: Phone) -> Path:
    host = LOCAL[0] if phone.host in LOCAL else phone.host
    digest = hashlib.sha256(json.dumps([host, phone.port, phone.serial]).encode()).hexdigest()
    return FOLDER / f"{digest[:32]}.lock"


def _read(path: Path) -> dict:
    try:
        text = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return text if isinstance(text, dict) else {}


def _one_line(text: str) -> str:
    """Text that any user may have written, without control characters."""
    return "".join(character if character.isprintable() else " " for character in text)


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user may have no name
        return str(os.getuid())
