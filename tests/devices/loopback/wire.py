"""The adb protocol below the services: messages, and the streams that they carry (protocol.txt of AOSP's adb)."""

import contextlib
import os
import queue
import socket
import struct
import threading
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loopback.device import Device

VERSION = 0x01000001  # of the protocol: from the answer to CNXN on, messages carry no checksums
MAX_DATA = 1 << 20
HEADER = struct.Struct("<6I")


class Command(IntEnum):
    CNXN = int.from_bytes(b"CNXN", "little")
    AUTH = int.from_bytes(b"AUTH", "little")
    OPEN = int.from_bytes(b"OPEN", "little")
    OKAY = int.from_bytes(b"OKAY", "little")
    WRTE = int.from_bytes(b"WRTE", "little")
    CLSE = int.from_bytes(b"CLSE", "little")


class Dropped(Exception):
    """The host, or the link to it, went away."""


class Stream:
    """A service's end of a stream to the host."""

    def __init__(self, connection: "Connection", local_id: int, remote_id: int, service: str):
        self.connection, self.local_id, self.remote_id, self.service = connection, local_id, remote_id, service
        self.closed = threading.Event()
        self._received: queue.Queue[bytes | None] = queue.Queue()
        self._may_write = threading.Semaphore(0)
        self._unread = bytearray()

    def accept(self) -> None:
        self.connection.send(Command.OKAY, self.local_id, self.remote_id)

    def write(self, data: bytes) -> None:
        """Send all of it. As the protocol wants it, each message waits for the host's OKAY to the one before."""
        size = self.connection.max_data
        for i in range(0, len(data), size):
            self._check_open()
            self.connection.send(Command.WRTE, self.local_id, self.remote_id, data[i : i + size])
            self._may_write.acquire()
            self._check_open()

    def read(self, size: int) -> bytes:
        """Exactly so many bytes."""
        while len(self._unread) < size:
            if not (data := self._next()):
                raise Dropped("eof")
            self._unread += data
        data = bytes(self._unread[:size])
        del self._unread[:size]
        return data

    def close(self) -> None:
        if not self.closed.is_set():
            self.closed.set()
            with contextlib.suppress(Dropped):
                self.connection.send(Command.CLSE, self.local_id, self.remote_id)
        self.connection.streams.pop(self.local_id, None)
        self.on_close()

    def on_data(self, data: bytes) -> None:
        self._received.put(data)

    def on_okay(self) -> None:
        self._may_write.release()

    def on_close(self) -> None:
        self.closed.set()
        self._may_write.release()
        self._received.put(None)

    def _next(self) -> bytes:
        """What the host sent next; nothing when it has closed the stream."""
        data = self._received.get()
        if data is None:
            self._received.put(None)
            return b""
        with contextlib.suppress(Dropped):
            self.connection.send(Command.OKAY, self.local_id, self.remote_id)
        return data

    def _check_open(self) -> None:
        if self.closed.is_set():
            raise Dropped("stream closed by the host")


class Connection:
    """A TCP connection of an adb server to the device."""

    def __init__(self, device: "Device", connected: socket.socket, peer: str):
        self.device, self.peer = device, peer
        self.streams: dict[int, Stream] = {}
        self.max_data = 4096
        self._connected = False
        self._socket = connected
        self._sending = threading.Lock()
        self._next_id = 1
        self._alive = True
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def run(self) -> None:
        """Serve the connection to its end."""
        try:
            while True:
                self._dispatch(*self._receive())
        except (Dropped, OSError) as error:
            self.device.record("disconnect", peer=self.peer, why=str(error))
        finally:
            self.kill()
            self.device.forget(self)

    def send(self, command: Command, first: int, second: int, data: bytes = b"") -> None:
        checksum = 0 if self._connected else sum(data)
        header = HEADER.pack(command, first, second, len(data), checksum, command ^ 0xFFFFFFFF)
        try:
            with self._sending:
                self._socket.sendall(header + data)
        except OSError as error:
            self.kill()
            raise Dropped(str(error)) from None

    def kill(self, reset: bool = False) -> None:
        """Close the connection now; with `reset`, as when a cable is pulled."""
        if not self._alive:
            return
        self._alive = False
        with contextlib.suppress(OSError):
            if reset:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # A thread that is blocked in recv keeps the socket: it has to be woken.
            self._socket.shutdown(socket.SHUT_RD if reset else socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self._socket.close()
        for stream in list(self.streams.values()):
            stream.on_close()

    def _receive(self) -> tuple[int, int, int, bytes]:
        command, first, second, size, _, magic = HEADER.unpack(self._exactly(HEADER.size))
        if magic != command ^ 0xFFFFFFFF or size > MAX_DATA:
            raise Dropped("bad header")
        return command, first, second, self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            if not (count := self._socket.recv_into(view)):
                raise Dropped("eof")
            view = view[count:]
        return bytes(data)

    def _dispatch(self, command: int, first: int, second: int, data: bytes) -> None:
        match command:
            case Command.CNXN:
                self._connect(second, data)
            case Command.AUTH if first == 3:  # the host's public key; nobody taps Allow on the screen
                self.device.record("auth", pubkey=len(data))
            case Command.AUTH:
                self.send(Command.AUTH, 1, 0, os.urandom(20))
            case Command.OPEN:
                self._open(first, data.rstrip(b"\0").decode("utf-8", "surrogateescape"))
            case Command.OKAY if second in self.streams:
                self.streams[second].on_okay()
            case Command.WRTE if second in self.streams:
                self.streams[second].on_data(data)
            case Command.WRTE:
                self.send(Command.CLSE, 0, first)
            case Command.CLSE if stream := self.streams.pop(second, None):
                stream.on_close()

    def _connect(self, max_data: int, banner: bytes) -> None:
        self.device.record("cnxn", peer=self.peer, banner=banner.rstrip(b"\0").decode("utf-8", "replace"))
        if self.device.mode == "unauthorized":
            self.send(Command.AUTH, 1, 0, os.urandom(20))
        elif self.device.mode == "device":
            self.max_data = min(max_data, MAX_DATA)
            self.send(Command.CNXN, VERSION, MAX_DATA, self.device.banner())
            self._connected = True

    def _open(self, remote_id: int, service: str) -> None:
        stream = Stream(self, self._next_id, remote_id, service)
        self.streams[stream.local_id] = stream
        self._next_id += 1
        threading.Thread(target=self.device.serve, args=(stream,), daemon=True, name=service[:40]).start()
