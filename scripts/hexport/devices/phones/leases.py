"""This module lets one job at a time use a phone, across all processes and users of this machine.

The lock is a socket named after the phone, in Linux' abstract namespace (unix(7)). The kernel lets one process have the
name, tells everybody which process that is, and frees the name when the process ends, however it ends. So no lease is
ever stale, and no file is shared between users. A note in a folder of this user's own says what its processes told of a
phone: who took the lease, and whether the phone is set aside. The note guides people and the choice of a phone, never
the lock, so a torn note counts as none.
"""

import contextlib
import errno
import hashlib
import io
import json
import os
import pwd
import socket
import stat
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from hexport.devices.link.adb import Phone
from hexport.devices.link.adb_server import LOCAL
from hexport.errors import HexportError

NAMESPACE = "hexport-lease"
# Not the folder of temporary files, which TMPDIR moves: all processes of a user must see the notes.
TEMPORARY = Path("/tmp")
SET_ASIDE_S = 300.0
NOTE_BYTES = 1 << 16
REASON_LETTERS = 1000
WAITING = 4096  # connections of those who ask for the holder, which nobody accepts


class Lease(contextlib.AbstractContextManager):
    """A lease holds a phone that this process alone uses, up to the end of the lease's block."""

    def __init__(self, phone: Phone, lock: socket.socket):
        self.phone, self._lock = phone, lock
        self._holder = {"pid": os.getpid(), "what": Path(sys.argv[0]).name, "since": time.time()}
        self._write(*(set_aside(phone) or ()))

    def set_aside(self, reason: str) -> None:
        """Let other phones be preferred to this one, in all processes of this user, for `SET_ASIDE_S` seconds."""
        self._write(reason, SET_ASIDE_S)

    def trust(self) -> None:
        """Set the phone aside no longer."""
        self._write()

    def release(self) -> None:
        """Let other processes lease the phone."""
        self._lock.close()

    def __exit__(self, *_: object) -> None:
        self.release()

    def _write(self, reason: str = "", seconds: float = 0.0) -> None:
        note = self._holder | {"reason": reason[:REASON_LETTERS], "until": time.time() + seconds}
        with _note(self.phone, os.O_WRONLY | os.O_CREAT) as file:
            file.write(json.dumps(note).encode())
            file.truncate()


def lease(phone: Phone) -> Lease | None:
    """Lease a phone. Return None, without waiting, where it is leased already.

    Raises HexportError or OSError where this user's folder of notes cannot be written, or is not this user's alone.
    """
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        lock.bind(_address(phone))
        lock.listen(WAITING)
        return Lease(phone, lock)
    except BaseException as error:
        lock.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            return None
        raise


def holder(phone: Phone) -> str | None:
    """Return who leases a phone now, as one line; None if nobody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.setblocking(False)
        try:
            asking.connect(_address(phone))
        except ConnectionRefusedError:
            return None
        except BlockingIOError:  # thousands have asked
            return "another process"
        pid, uid, _ = struct.unpack("3i", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    match _read(phone):
        case {"pid": int(noted), "what": str(what), "since": float(since)} if noted == pid and 0 <= since < 1e11:
            clock = time.strftime("%H:%M:%S", time.localtime(since))
            return _one_line(f"{what} of {_user(uid)} (process {pid}), since {clock}")
    return f"a program of {_user(uid)} (process {pid})"


def set_aside(phone: Phone) -> tuple[str, float] | None:
    """Return why a phone is set aside, and for how many more seconds; None if it is not."""
    match _read(phone):
        case {"reason": str(reason), "until": float(until)}:
            left = min(until - time.time(), SET_ASIDE_S)  # the clock may have been set back since
            if left > 0:
                return _one_line(reason), left
    return None


def _digest(phone: Phone) -> str:
    host = LOCAL[0] if phone.host in LOCAL else phone.host
    return hashlib.sha256(json.dumps([host, phone.port, phone.serial]).encode()).hexdigest()[:32]


def _address(phone: Phone) -> str:
    return f"\0{NAMESPACE}-{_digest(phone)}"


def _own_folder(make: bool) -> Path:
    """Return the folder of notes. Raises HexportError where anybody else made it or may write to it."""
    session = os.environ.get("XDG_RUNTIME_DIR", "")  # of a login: nobody else can take a name in it
    folder = (Path(session) if os.path.isdir(session) else TEMPORARY) / f"hexport-{os.getuid()}"
    if make:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise HexportError(f"{folder}: not a folder of this user alone (mode 0700); remove it, or set XDG_RUNTIME_DIR")
    return folder


@contextlib.contextmanager
def _note(phone: Phone, flags: int) -> Iterator[io.FileIO]:
    """Yield the file of what this user's processes tell of a phone. Raises HexportError for anything
    but a plain file.
    """
    path = _own_folder(make=flags != os.O_RDONLY) / f"{_digest(phone)}.json"
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link, a FIFO that nobody reads
            raise HexportError(f"{path}: not a plain file; remove it") from None
        raise
    with open(descriptor, "rb" if flags == os.O_RDONLY else "wb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise HexportError(f"{path}: not a plain file; remove it")
        yield file


def _read(phone: Phone) -> dict:
    try:
        with _note(phone, os.O_RDONLY) as file:
            note = json.loads(file.read(NOTE_BYTES))
    except (HexportError, OSError, ValueError, RecursionError):
        return {}
    return note if isinstance(note, dict) else {}


def _one_line(text: str) -> str:
    """Return a text, which may tell what a phone said, without control characters."""
    return "".join(character if character.isprintable() else " " for character in text)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # a container's user may have no name
        return str(uid)
