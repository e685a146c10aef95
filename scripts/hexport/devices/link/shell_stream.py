"""This module talks to a process on a phone by adb's shell v2 protocol, and makes sure that its end cannot be mistaken.

The process has ended well only where both arrived: the marker that the phone's shell prints last, with the exit code,
and the protocol's exit packet. The command is run under `timeout` in a session of its own. The shell that waits for it
kills that session when adb takes the shell away (SIGHUP, as adbd does where the link is lost).
"""

import select
import shlex
import signal
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from hexport.devices.link.adb_server import LINK_ERRORS, Client, Connection
from hexport.devices.link.faults import PassingFault, PhoneFault, said_by_phone

STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)  # adb's shell_protocol.h
PACKET = 32 << 10  # bytes of input a packet
LIMIT = 64 << 20  # bytes of output that are kept; more is no output of ours
WAITING_READS = 20
LATER_S = 5  # the phone's own timeout comes so much after the host's, which can say more
FROM_OUTSIDE = (signal.SIGHUP, signal.SIGKILL, signal.SIGTERM)

# Android's `timeout` makes a process group of its own, so only the session tells which processes are the command's. It
# is the fourth word of /proc/<pid>/stat after the name in parentheses.
SCRIPT = """\
end() {{
kill -9 $(grep -hs ") [A-Y] [0-9]* [0-9]* $p " /proc/[0-9]*/stat | cut -d ' ' -f 1)
}}
lost() {{
end
{if_lost}
exit 129
}}
trap lost HUP TERM
exec 3<&0 4>&2 2>/dev/null
{enter}
setsid timeout -s KILL {seconds} sh -c {command} <&3 2>&4 3<&- 4>&- &
p=$!
wait $p
code=$?
end
printf '%s%d;' {marker} $code >&4
exit $code
"""


@dataclass(frozen=True)
class Output:
    """An output is what a process left: its exit code (128 + n where signal n ended it), and what it said and nobody
    has read.
    """

    code: int
    stdout: bytes
    stderr: bytes

    @property
    def ended_by(self) -> signal.Signals | None:
        """Return the signal that ended the process, if one did."""
        number = self.code - 128
        return signal.Signals(number) if number in set(signal.Signals) else None

    def text(self) -> str:
        return self.stdout.decode(errors="replace")

    def last_line(self) -> str:
        """Return the last line the process said, on stderr or else on stdout, for an error message of one line."""
        shells = signal.strsignal(self.ended_by) if self.ended_by else None  # what the shell says of a crash
        for said in (self.stderr, self.stdout):
            for line in reversed(said[-2000:].decode(errors="replace").split("\n")):
                text = said_by_phone(line)
                if text and not (shells and text.startswith(shells)):
                    return text
        return ""


def script(command: str, seconds: float, marker: str, folder: str, if_lost: str) -> str:
    """Return the phone's shell command that runs `command` in `folder`, and `if_lost` where the host goes before its
    end.
    """
    return SCRIPT.format(
        if_lost=if_lost,
        enter=f"cd {shlex.quote(folder)} || exit 1",
        seconds=ceil(seconds) + LATER_S,
        command=shlex.quote(f"{command}\nexit $?"),
        marker=marker,
    )


class Stream:
    """A stream is a running process. Where it is closed before its end, the process is killed."""

    def __init__(self, client: Client, connection: Connection, marker: str, where: str, seconds: float, too_short: str):
        # `conn` limits silence to IDLE_S, but a process may be silent up to the deadline. So the socket itself is kept.
        self._client, self._socket, self._where = client, connection.conn, where
        self._seconds, self._too_short = seconds, too_short
        self._marker = marker.encode()
        self._packets = bytearray()
        self._out, self._err = bytearray(), bytearray()
        self._code: int | None = None

    def write(self, data: bytes) -> None:
        """Give the process input. Where it has ended, nothing is written: its output tells how it ended."""
        for start in range(0, len(data), PACKET):
            self._send(STDIN, data[start : start + PACKET])

    def close_input(self) -> None:
        self._send(CLOSE_STDIN, b"")

    def lines(self) -> Iterator[bytes]:
        """Yield the lines of the process' stdout without their ends, as they come, up to its end."""
        while True:
            end = self._out.find(b"\n")
            if end >= 0:
                line = bytes(self._out[:end])
                del self._out[: end + 1]
                yield line
            elif not self._fill():
                break
        if self._out:
            yield self._take(len(self._out))

    def read(self, n: int) -> bytes:
        """Return the next `n` bytes of the process' stdout, fewer only where it has ended."""
        while len(self._out) < n and self._fill():
            pass
        return self._take(n)

    def rest(self) -> Output:
        """Close the process' input, wait for its end, however it ends, and return its output."""
        if self._code is None:
            self.close_input()
        while self._fill():
            pass
        return Output(self._code, self._take(len(self._out)), bytes(self._err))

    def output(self) -> Output:
        """Return what `rest` does. Raises PhoneFault where a signal ended the process: the phone's, or its own in a
        crash.
        """
        output = self.rest()
        ended_by = output.ended_by
        if ended_by is None:
            return output
        said = f": {output.last_line()}" if output.last_line() else ""
        if ended_by in FROM_OUTSIDE:
            raise PhoneFault(
                f"{self._where}: killed by {ended_by.name}, as Android does where memory is short{said}; "
                "close apps on the phone, or take a smaller program"
            )
        raise PhoneFault(f"{self._where}: crashed with {ended_by.name}{said}; see the log of the run")

    def check_runs(self) -> None:
        """Raise PassingFault, without waiting, where the link broke or the process ended."""
        for _ in range(WAITING_READS):  # a process that says more will not be waited for
            if self._code is not None or not select.select([self._socket], [], [], 0)[0]:
                break
            self._fill()
        if self._code is not None:
            raise PassingFault(f"{self._where}: ended too early; see what else uses the phone")

    def _take(self, n: int) -> bytes:
        data = bytes(self._out[:n])
        del self._out[:n]
        return data

    def _send(self, kind: int, data: bytes) -> None:
        try:
            self._socket.settimeout(self._client.left())
            self._socket.sendall(struct.pack("<BI", kind, len(data)) + data)
        except TimeoutError:
            raise self._overdue() from None
        except OSError:  # the process may have ended before it read all: then the end is still to be read
            while self._fill():
                pass

    def _fill(self) -> bool:
        """Take what came next. Return False where the process has ended. Raises PassingFault where the link broke."""
        if self._code is not None:
            return False
        try:
            self._socket.settimeout(self._client.left())
            data = self._socket.recv(1 << 16)
        except TimeoutError:
            raise self._overdue() from None
        except LINK_ERRORS:
            data = b""
        if not data:
            raise PassingFault(f"{self._where}: the link broke before its end; check the cable and `adb devices`")
        self._packets += data
        while len(self._packets) >= 5 and self._code is None:
            kind, size = struct.unpack_from("<BI", self._packets)
            if kind > CLOSE_STDIN or size > LIMIT:
                raise PassingFault(f"{self._where}: the link carries garbage; check the cable")
            if len(self._packets) < 5 + size:
                break
            self._packet(kind, bytes(self._packets[5 : 5 + size]))
            del self._packets[: 5 + size]
        return True

    def _packet(self, kind: int, data: bytes) -> None:
        if kind == STDOUT:
            self._out += data
        elif kind == STDERR:
            self._err += data
        elif kind == EXIT:
            self._end(data)
        if max(len(self._out), len(self._err)) > LIMIT:
            raise PhoneFault(f"{self._where}: prints garbage without end, over {LIMIT >> 20} MB; see what it runs")

    def _end(self, codes: bytes) -> None:
        code = next(iter(codes), 0)
        end = self._marker + b"%d;" % code
        if not self._err.endswith(end):
            raise PassingFault(f"{self._where}: ended without its end marker; check the cable and `adb devices`")
        del self._err[-len(end) :]
        self._code = code

    def _overdue(self) -> PhoneFault:
        said = Output(0, bytes(self._out), bytes(self._err)).last_line()
        return PhoneFault(
            f"{self._where}: did not end within {self._seconds:g} s{f', last it said: {said}' if said else ''}; "
            f"see whether the phone hangs{self._too_short}"
        )
