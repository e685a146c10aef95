"""The sync service of a loopback device: files that are pushed and pulled (SYNC.TXT of AOSP's adb)."""

import contextlib
import errno
import os
import stat
import struct
import time
from typing import TYPE_CHECKING, BinaryIO

from loopback.faults import Fault
from loopback.wire import Stream

if TYPE_CHECKING:
    from loopback.device import Device

DATA_MAX = 64 * 1024
REQUEST = struct.Struct("<4sI")
NO_FAULT = Fault("none")


class Refused(Exception):
    """What the device tells the host of a transfer that failed."""


def serve_sync(device: "Device", stream: Stream) -> None:
    """Serve requests until the host ends the stream."""
    while True:
        request, size = REQUEST.unpack(stream.read(REQUEST.size))
        if request == b"QUIT":
            return
        path = stream.read(size).decode("utf-8", "surrogateescape")
        try:
            match request:
                case b"STAT" | b"STA2" | b"LST2":
                    stream.write(request + _status(device, stream, request, path))
                case b"SEND":
                    Push(device, stream, path).serve()
                case b"RECV":
                    Pull(device, stream, path).serve()
                case _:
                    raise Refused(f"unknown command {request!r}")
        except Refused as error:
            text = str(error).encode("utf-8", "surrogateescape")
            stream.write(REQUEST.pack(b"FAIL", len(text)) + text)


def _status(device: "Device", stream: Stream, request: bytes, path: str) -> bytes:
    """A file's mode, size and time, as version 1 or 2 of the request wants them; zeros where there is none."""
    if fault := device.faults.find("stat", path):
        device.suffer(fault, stream)
    second, follow = request != b"STAT", request == b"STA2"
    try:
        status = os.stat(device.sandbox.path(path), follow_symlinks=follow)
    except OSError as error:
        return struct.pack("<I", error.errno) + bytes(64) if second else bytes(12)
    times = int(status.st_atime), int(status.st_mtime), int(status.st_ctime)
    if not second:
        return struct.pack("<III", status.st_mode, status.st_size & 0xFFFFFFFF, times[1])
    identity = status.st_dev, status.st_ino, status.st_mode, status.st_nlink, status.st_uid, status.st_gid
    return struct.pack("<IQQIIIIQqqq", 0, *identity, status.st_size, *times)


class Push:
    """A file that the host sends. What it sends after a failure is read, and the failure is told at the end."""

    def __init__(self, device: "Device", stream: Stream, request: str):
        self.device, self.stream = device, stream
        self.path, _, mode = request.rpartition(",")
        self.mode = int(mode)
        self.fault = device.faults.find("push", self.path) or NO_FAULT
        self.size = 0  # of what the host sent
        self.failure = self._failure_at_start()

    def serve(self) -> None:
        start, real = time.time(), self.device.sandbox.path(self.path)
        with contextlib.ExitStack() as opened:
            try:
                file = None if self.failure else opened.enter_context(self._create(real))
            except OSError as error:
                file, self.failure = None, f"couldn't create file: {error.strerror}"
            try:
                modified = self._receive(file)
            except BaseException:
                if file:
                    os.unlink(real)  # as adbd does
                self._record(error="aborted")
                raise
        if self.failure:
            if file:
                os.unlink(real)
            self._record(error=self.failure)
            raise Refused(self.failure)
        os.utime(real, (modified, modified))
        self._record(mode=oct(self.mode), secs=round(time.time() - start, 3))
        self.stream.write(REQUEST.pack(b"OKAY", 0))

    def _failure_at_start(self) -> str | None:
        if stat.S_ISLNK(self.mode):
            return "the loopback device takes no links"
        if self.fault.action == "erofs":
            return "couldn't create file: Read-only file system"
        return self.fault.message if self.fault.action == "fail" and not self.fault.after else None

    def _create(self, real: str) -> BinaryIO:
        """The file, opened. As in adbd, its folder is made, and the group and others may do what the owner may."""
        if os.path.isdir(real):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        if os.path.islink(real):
            os.unlink(real)
        os.makedirs(os.path.dirname(real), 0o775, exist_ok=True)
        permissions = self.mode & 0o777
        permissions |= permissions >> 3 & 0o070
        permissions |= permissions >> 3 & 0o007
        file = open(real, "wb", buffering=0)  # noqa: SIM115 - the caller closes it
        os.fchmod(file.fileno(), permissions)
        return file

    def _receive(self, file: BinaryIO | None) -> int:
        """Write what comes; the time of modification that the host gives."""
        due = self.fault is not NO_FAULT
        while True:
            request, size = REQUEST.unpack(self.stream.read(REQUEST.size))
            if request == b"DONE":
                return size
            if request != b"DATA" or size > DATA_MAX:
                raise Refused(f"invalid data message {request!r} of {size} bytes")
            data = self.stream.read(size)
            if due and self.size + size >= self.fault.after:
                data, due = self._suffer(data, max(0, int(self.fault.after) - self.size), file)
            self.size += size
            if file and not self.failure:
                try:
                    file.write(data)
                except OSError as error:
                    self.failure = f"write failed: {error.strerror}"

    def _suffer(self, data: bytes, where: int, file: BinaryIO | None) -> tuple[bytes, bool]:
        """What the fault leaves of data that it befalls at a byte of them, and whether it goes on."""
        match self.fault.action:
            case "drop" | "vanish" | "hang":
                if file:
                    file.write(data[:where])
                self.device.record("push", path=self.path, size=int(self.fault.after), fault=self.fault.action)
                self.device.suffer(self.fault, self.stream)
            case "enospc":
                self.failure = "write failed: No space left on device"
            case "fail":
                self.failure = self.fault.message
            case "corrupt":
                return flipped(data, where), False
            case "truncate":
                return data[:where], True
        return data, False

    def _record(self, **facts: object) -> None:
        self.device.record("push", path=self.path, size=self.size, fault=_name(self.fault), **facts)


class Pull:
    """A file that the host gets."""

    def __init__(self, device: "Device", stream: Stream, path: str):
        self.device, self.stream, self.path = device, stream, path
        self.fault = device.faults.find("pull", path) or NO_FAULT

    def serve(self) -> None:
        try:
            with open(self.device.sandbox.path(self.path), "rb") as file:
                size = self._send(file)
        except OSError as error:
            self.device.record("pull", path=self.path, error=error.strerror)
            raise Refused(f"open failed: {error.strerror}") from None
        self.device.record("pull", path=self.path, size=size, fault=_name(self.fault))
        self.stream.write(REQUEST.pack(b"DONE", 0))

    def _send(self, file: BinaryIO) -> int:
        """Send all of a file; how many bytes that were."""
        sent, due = 0, self.fault is not NO_FAULT
        while data := file.read(DATA_MAX):
            ends = False
            if due and sent + len(data) >= self.fault.after:
                data, due, ends = self._suffer(data, max(0, int(self.fault.after) - sent))
            sent += len(data)
            self._chunk(data)
            if ends:
                break
        return sent

    def _suffer(self, data: bytes, where: int) -> tuple[bytes, bool, bool]:
        """What the fault leaves of data that it befalls at a byte of them, if it goes on, and if the file ends here."""
        match self.fault.action:
            case "drop" | "vanish" | "hang":
                self._chunk(data[:where])
                self.device.record("pull", path=self.path, size=int(self.fault.after), fault=self.fault.action)
                self.device.suffer(self.fault, self.stream)
            case "fail":
                self.device.record("pull", path=self.path, error="injected", fault="fail")
                raise Refused(self.fault.message)
            case "corrupt":
                return flipped(data, where), False, False
            case "truncate":
                return data[:where], False, True
        return data, False, False

    def _chunk(self, data: bytes) -> None:
        if data:
            self.stream.write(REQUEST.pack(b"DATA", len(data)) + data)


def flipped(data: bytes, where: int) -> bytes:
    """With one bit of the byte there, or of the last one, flipped."""
    changed = bytearray(data)
    changed[min(len(data) - 1, where)] ^= 1
    return bytes(changed)


def _name(fault: Fault) -> str | None:
    return None if fault is NO_FAULT else fault.action
