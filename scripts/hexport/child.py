"""This module runs child processes, for native code that may crash or hang on what it gets. However one ends, its
parent says so in one line.

A child is a fresh interpreter: it shares neither memory nor threads nor the counters of native libraries with its
parent. It gets its work pickled, and answers in JSON or bytes, as what it read may be anyone's. Its standard output and
error are its parent's.
"""

import contextlib
import ctypes
import faulthandler
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

from hexport.call_stack import with_room
from hexport.errors import HexportError
from hexport.progress import Progress

SCRIPTS = Path(__file__).resolve().parents[1]
START = "import sys; sys.path.insert(0, sys.argv[1]); from hexport.child import main; main(int(sys.argv[2]))"
PR_SET_PDEATHSIG = 1
ASK, ADDR_NO_RANDOMIZE = 0xFFFFFFFF, 0x0040000  # of personality(2)
IOLBF = 1  # C's stdio.h has it: write line by line
LOOK_S = 0.5  # seconds between two calls of `meanwhile`
SILENCE_S = 3600.0  # a child that reports progress and says nothing for so long hangs


class ChildError(HexportError):
    """This error says that a child ended without an answer, or said nothing in time."""


class Child(contextlib.AbstractContextManager):
    """A child is a process that runs `work(connection, *arguments)`, where `connection` is the other end of `send` and
    `receive`.

    `work` is a function at the top of a module. The child is used as a context: outside, the process runs no more.
    `what` and `advice` are how the one line begins and what it tells the user to do, where the child ends without an
    answer, or does not end within `timeout` seconds in all. With `same_addresses`, its memory lies where it lies in all
    such children, for native code whose results depend on that.
    """

    def __init__(
        self,
        work: Callable,
        *arguments: object,
        what: str,
        advice: str,
        timeout: float = float("inf"),
        same_addresses: bool = False,
    ):
        self._what, self._advice, self._timeout = what, advice, timeout
        self._end = time.monotonic() + timeout
        self._connection, theirs = Pipe()
        command = [sys.executable, "-P", "-c", START, str(SCRIPTS), str(theirs.fileno())]
        with _same_addresses() if same_addresses else contextlib.nullcontext():
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
        theirs.close()
        self.send((work, arguments))

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait()

    def send(self, value: object) -> None:
        """Send a value, pickled. Raises ChildError where the child has ended."""
        try:
            self._connection.send(value)
        except (BrokenPipeError, ConnectionResetError):
            self._raise_end()

    def send_buffer(self, buffer: memoryview) -> None:
        """Send bytes for `receive_buffer`; no copy of them is made on the way. Raises ChildError where the child has
        ended."""
        try:
            while buffer:
                buffer = buffer[os.write(self._connection.fileno(), buffer) :]
        except (BrokenPipeError, ConnectionResetError):
            self._raise_end()

    def receive(self, silence: float = float("inf"), meanwhile: Callable[[], None] | None = None) -> bytes:
        """Return the next message, which has to come within `silence` seconds. Raises ChildError where none does.

        `meanwhile` is called every LOOK_S seconds until it comes, or the child ends.
        """
        silent = time.monotonic() + silence
        end = min(self._end, silent)
        while meanwhile and time.monotonic() < end and not self._connection.poll(LOOK_S):
            meanwhile()
        if end != float("inf") and not self._connection.poll(max(end - time.monotonic(), 0)):
            late = f"said nothing for {silence:g} s" if end == silent else f"took more than {self._timeout:g} s"
            raise ChildError(f"{self._what} {late}; {self._advice}")
        try:
            return self._connection.recv_bytes()
        except (EOFError, ConnectionResetError):
            self._raise_end()

    def _raise_end(self) -> None:
        code = self._process.wait()
        if code == -signal.SIGKILL:
            how = "was killed, maybe for lack of memory"
        elif code < 0:
            how = f"crashed with {signal.Signals(-code).name}"
        else:
            how = f"ended with exit code {code} and no answer"
        raise ChildError(f"{self._what} {how}; {self._advice}")


@contextlib.contextmanager
def _same_addresses() -> Iterator[None]:
    """Let what this thread starts have its memory at the same addresses each time, unless a container forbids that."""
    personality = ctypes.CDLL(None).personality
    before = personality(ASK)
    personality(before | ADDR_NO_RANDOMIZE)
    try:
        yield
    finally:
        personality(before)


def receive_buffer(connection: Connection, buffer: memoryview) -> None:
    """In a child, fill a buffer with what `Child.send_buffer` sent. Raises EOFError where the parent ends."""
    while buffer:
        n_read = os.readv(connection.fileno(), [buffer])
        if n_read == 0:
            raise EOFError
        buffer = buffer[n_read:]


def main(descriptor: int) -> None:
    """Run in a child what its parent sends. It ends with its parent, even where that is killed."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if _is_cut_off(descriptor):  # the parent was gone before it could take this process along
        os._exit(1)
    # What native code prints is in the log when it has printed it, and after a crash; C would hold back 4 KB.
    libc.setvbuf(ctypes.c_void_p.in_dll(libc, "stdout"), None, IOLBF, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C goes to the parent too
    faulthandler.enable()  # the Python lines behind a crash go to the log
    connection = Connection(descriptor)
    try:
        work, arguments = connection.recv()
        with_room(lambda: work(connection, *arguments))
    except (EOFError, BrokenPipeError):  # the parent is gone
        os._exit(1)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # QNN's libraries print, and may crash, while a process that used them tears down


def _is_cut_off(descriptor: int) -> bool:
    """Return whether nobody has the other end of a connection any more, though there may be something to be
    received."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & select.POLLHUP for _, event in poll.poll(0))


def answer(
    function: Callable, *arguments: object, progress: Progress, what: str, advice: str, timeout: float = float("inf")
) -> object:
    """Return what `function(progress, *arguments)` returns, as JSON, in a child whose progress is said here.

    Raises HexportError and OSError as the function does; ChildError where the child crashes, does not end within
    `timeout` seconds in all, or says nothing for an hour; MemoryError where it runs out of memory; RuntimeError, with
    the child's trace, for any other error.
    """
    with Child(_answer, function, arguments, what=what, advice=advice, timeout=timeout) as child:
        while True:
            kind, *values = json.loads(child.receive(SILENCE_S))
            match kind:
                case "say":
                    progress.say(values[0], passing=values[1], cost=values[2])
                case "stage":
                    progress.stages[values[0]] = values[1]
                case "log":
                    progress.log(values[0])
                case "answer":
                    return values[0]
                case "fault":
                    raise HexportError(*values)
                case "memory":
                    raise MemoryError
                case "os":
                    raise OSError(*values)
                case _:
                    error = RuntimeError(f"{what}: {values[0]}")
                    error.add_note(values[1])
                    raise error


def _answer(connection: Connection, function: Callable, arguments: tuple) -> None:
    def tell(*message: object) -> None:
        connection.send_bytes(json.dumps(message).encode())

    try:
        message = json.dumps(["answer", function(_Told(tell), *arguments)])
    except BrokenPipeError:
        raise
    except HexportError as error:
        message = json.dumps(["fault", *error.args])
    except MemoryError:
        message = json.dumps(["memory"])
    except OSError as error:
        message = json.dumps(["os", error.errno, error.strerror or str(error), error.filename], default=str)
    except Exception as error:
        message = json.dumps(["bug", f"{type(error).__name__}: {error}", traceback.format_exc()])
    connection.send_bytes(message.encode())


class _Told(Progress):
    """A told progress sends what is said in a child to its parent."""

    def __init__(self, tell: Callable):
        super().__init__()
        self._tell = tell
        self.stages = _ToldStages(tell)

    def say(self, line: str, *, passing: bool = False, cost: bool = False) -> None:
        self._tell("say", line, passing, cost)

    def log(self, text: str) -> None:
        self._tell("log", text)


class _ToldStages(dict):
    def __init__(self, tell: Callable):
        super().__init__()
        self._tell = tell

    def __setitem__(self, name: str, cost: dict) -> None:
        super().__setitem__(name, cost)
        self._tell("stage", name, cost)
