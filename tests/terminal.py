"""A program on a terminal, whose screen tests read as a user sees it."""

import contextlib
import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pyte

ROWS, COLUMNS = 40, 100
DEADLINE_S = 60


class Terminal:
    """Runs a command as the foreground job of a terminal of its own."""

    def __init__(self, *command: str, cwd: Path | None = None, env: Mapping[str, str], rows: int = ROWS):
        self.screen = pyte.Screen(COLUMNS, rows)
        self._stream = pyte.ByteStream(self.screen)
        self._ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, COLUMNS, 0, 0))
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
        env = {**env, "TERM": "xterm-256color"}
        self.process = subprocess.Popen(command, cwd=cwd, env=env, preexec_fn=_take_terminal, **streams)
        os.close(theirs)

    @property
    def lines(self) -> list[str]:
        """What the screen shows, without its empty lines."""
        return [line.rstrip() for line in self.screen.display if line.strip()]

    def wait_for(self, shown: Callable[[list[str]], bool]) -> list[str]:
        """The lines as soon as they are as wanted."""
        deadline = time.monotonic() + DEADLINE_S
        while not shown(self.lines):
            assert time.monotonic() < deadline, "\n".join(self.lines)
            assert self._read(), "\n".join(self.lines)
        return self.lines

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def end(self) -> int:
        """Read to the end of the program; its exit code."""
        deadline = time.monotonic() + DEADLINE_S
        while self._read():
            assert time.monotonic() < deadline, "\n".join(self.lines)
        return self.process.wait(DEADLINE_S)

    def hang_up(self) -> None:
        """Take the terminal away, as of a window that is closed."""
        os.close(self._ours)
        self._ours = os.open(os.devnull, os.O_RDONLY)

    def close(self) -> None:
        """Take the terminal away, and kill what still runs."""
        os.close(self._ours)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, 9)
        self.process.wait()

    def _read(self) -> bool:
        """What comes within a moment; False at the end, which Linux reports as an error."""
        with contextlib.suppress(OSError):
            if not select.select([self._ours], [], [], 0.1)[0]:
                return True
            if received := os.read(self._ours, 1 << 16):
                self._stream.feed(received)
                return True
        return False


def _take_terminal() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's job in the background ignores it
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
