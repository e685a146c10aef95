"""This module has a client of the adb server, whose every answer has a deadline, and starts a server of this host."""

import contextlib
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator

from adbutils import AdbClient, AdbConnection, AdbError, adb_path

from hexport.devices.link.faults import PassingFault

LOCAL = ("127.0.0.1", "localhost", "::1")
CONNECT_S = 3.0
IDLE_S = 60.0  # a link that works is never silent for so long amid a file
ANSWER_BYTES = 1 << 20  # adb's longest answer is a piece of a file, of 64 kB
# A host that went away without a word is noticed after 40 s, where nothing is sent meanwhile.
KEEP_ALIVE = (
    ((socket.SOL_SOCKET, socket.SO_KEEPALIVE), 1),
    ((socket.IPPROTO_TCP, socket.TCP_KEEPIDLE), 10),
    ((socket.IPPROTO_TCP, socket.TCP_KEEPINTVL), 10),
    ((socket.IPPROTO_TCP, socket.TCP_KEEPCNT), 3),
)
START_S = 20.0  # a server starts in less than a second, on a busy machine in several
# What adbutils raises where the server, the link or the phone fails it: its own errors, those of the socket (a
# TimeoutError is an OSError), and those of code that takes a short answer for a whole one.
LINK_ERRORS = (AdbError, OSError, EOFError, struct.error, AssertionError, ValueError)


class Connection(AdbConnection):
    """This connection to an adb server starts no server, and has a deadline for whatever adbutils does with it. It
    accepts no answer of more than ANSWER_BYTES, and keeps why a phone refuses a file, which adbutils throws away.

    adbutils' own connection would start a server on this host, whichever host was asked for. All that is inherited goes
    through `conn`, `closed`, `close` and the reading methods, which are public.
    """

    refusal = ""
    _refused = False

    def __init__(self, host: str, port: int, left: Callable[[], float]):
        self._left = left
        self._socket: socket.socket | None = socket.create_connection((host, port), min(left(), CONNECT_S))
        for option, value in KEEP_ALIVE:
            self._socket.setsockopt(*option, value)

    @property
    def closed(self) -> bool:
        return self._socket is None

    @property
    def conn(self) -> socket.socket:
        """Return the socket; what is done with it next may take the rest of the time, at most IDLE_S seconds.

        Raises TimeoutError past the deadline, AdbError where the connection is closed.
        """
        if self._socket is None:
            raise AdbError("the connection is closed")
        self._socket.settimeout(min(self._left(), IDLE_S))
        return self._socket

    def read(self, n: int) -> bytes:
        """Return up to `n` bytes, fewer where the connection ends. Raises AdbError for more than ANSWER_BYTES."""
        if n > ANSWER_BYTES:
            raise AdbError(f"an answer of {n} bytes")
        data = bytearray()
        while len(data) < n and (chunk := self.conn.recv(n - len(data))):
            data += chunk
        return bytes(data)

    def read_exact(self, n: int) -> bytes:
        """Return `n` bytes. Raises EOFError where the connection ends before."""
        data = self.read(n)
        if len(data) < n:
            raise EOFError(f"{n} bytes expected, {len(data)} came")
        return data

    def read_string(self, n: int) -> str:
        """Return a text of `n` bytes. The text that follows `FAIL` is kept as the refusal."""
        text = super().read_string(n)
        if self._refused:
            self.refusal = text
        self._refused = not self._refused and text == "FAIL"
        return text

    def close(self) -> None:
        if self._socket is None:
            return
        with contextlib.suppress(*LINK_ERRORS):
            if self._refused:
                (length,) = struct.unpack("<I", self.read_exact(4))
                self.read_string(min(length, 1024))
            self._socket.shutdown(socket.SHUT_WR)
        self._socket.close()
        self._socket = None


class Client(AdbClient):
    """A client is adbutils' own with a total deadline, `seconds` from now, for all that is done with it."""

    def __init__(self, host: str, port: int, seconds: float):
        super().__init__(host, port)
        self.deadline = time.monotonic() + seconds
        self.connections: list[Connection] = []

    def left(self) -> float:
        """Return the seconds to the deadline. Raises TimeoutError past it."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("deadline")
        return left

    def make_connection(self, timeout: float | None = None) -> Connection:
        self.connections.append(Connection(self.host, self.port, self.left))
        return self.connections[-1]

    def close(self) -> None:
        for connection in self.connections:
            connection.close()

    def refusal(self) -> str:
        """Return what the phone said when it refused a file; an empty text where it refused none."""
        return next((connection.refusal for connection in self.connections if connection.refusal), "")


@contextlib.contextmanager
def client(host: str, port: int, seconds: float) -> Iterator[Client]:
    """Yield a client of a running server; a server of this host is started if need be.

    Raises PassingFault where no server runs and none can be started.
    """
    ensure_server(host, port)
    with contextlib.closing(Client(host, port, seconds)) as connected:
        yield connected


def ensure_server(host: str, port: int) -> None:
    """Start the server if it is one of this host and does not run.

    Raises PassingFault where the server still does not answer, or is one of another host that does not.
    """
    if _listens(host, port):
        return
    if host not in LOCAL:
        raise PassingFault(
            f"adb server {host}:{port}: does not answer; start it there (`adb -a -P {port} nodaemon server`), "
            "or correct adb_server in devices.yaml"
        )
    with contextlib.suppress(OSError, AdbError, subprocess.SubprocessError):
        # The server outlives this process and keeps what it inherits, so it must inherit no pipe that someone reads.
        command = [adb_path(), "-P", str(port), "start-server"]
        null = subprocess.DEVNULL
        subprocess.run(command, timeout=START_S, stdin=null, stdout=null, stderr=null, check=False)
    if not _listens(host, port):
        raise PassingFault(f"adb server {host}:{port}: does not start; try `adb -P {port} start-server` to see why")


def _listens(host: str, port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection((host, port), timeout=3).close()
        return True
    return False
