"""Mount namespaces of Linux: a file system of one's own."""

import contextlib
import ctypes
import os
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)


def enter_namespace(user: int | None = None) -> None:
    """Give this process a mount namespace of its own; an ordinary user needs a user namespace too, as `user` of it."""
    uid, gid = os.getuid(), os.getgid()
    _check(_libc.unshare(CLONE_NEWNS | (0 if user is None else CLONE_NEWUSER)), "unshare")
    if user is not None:
        with contextlib.suppress(OSError):
            Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{user} {gid} 1")
    _mount("none", "/", None, MS_REC | MS_PRIVATE)


def mount_tmpfs(target: str, options: str) -> None:
    _mount("tmpfs", target, "tmpfs", 0, options)


def bind(source: str, target: str, read_only: bool = False) -> None:
    """Show a file or a folder at another place as well, which is made where it is not there."""
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    elif not os.path.exists(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        Path(target).touch()
    _mount(source, target, None, MS_BIND | MS_REC)
    if read_only:
        with contextlib.suppress(OSError):  # a mount that an ordinary user may not change is left as it is
            _mount(None, target, None, MS_BIND | MS_REMOUNT | MS_RDONLY)


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    names = [name.encode() if name else None for name in (source, target, kind)]
    status = _libc.mount(*names, ctypes.c_ulong(flags), options.encode() if options else None)
    _check(status, f"mount {source} at {target}")


def _check(status: int, what: str) -> None:
    if status:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
