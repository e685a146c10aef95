"""This module runs one process of `phone_side` on a phone: it sends requests and checks the answers."""

import contextlib
import hashlib
import itertools
import json
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

from hexport.config.devices import Device
from hexport.devices.link.adb import Phone
from hexport.devices.link.faults import PassingFault, PhoneFault, said_by_phone
from hexport.devices.link.shell_stream import LIMIT, Stream
from hexport.devices.phones.job import JobFolder
from hexport.devices.runners.phone_code import MODULE
from hexport.progress import Progress

CODE, PROGRAM = "hexport.zip", "program.pte"
NOT_FOUND = 127  # a shell's exit code where there is no such program
MOST_S = 1e6
FRESH_S = 60.0  # a process that is older has lost much of the time that a run may take
ENVIRONMENT = {
    "PYTHONPATH": CODE,
    "LD_LIBRARY_PATH": ".",  # executorch opens the QNN libraries by bare name
    "ADSP_LIBRARY_PATH": ".",  # and the HTP its skeleton
}


@dataclass(frozen=True)
class Event:
    """An event is what the phone said: the facts of a header, and the bytes behind it, whose hash was right."""

    name: str
    facts: dict
    payload: bytes

    def json(self) -> dict:
        """Return the JSON object that the bytes hold. Raises ValueError or RecursionError where they hold none."""
        return _object(self.payload)


@contextlib.contextmanager
def understood(phone: Phone) -> Iterator[None]:
    """Check what a phone says: raise PhoneFault where the block finds that our code on a phone would not say it."""
    try:
        yield
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        why = said_by_phone(f"{type(error).__name__}: {error}")
        raise PhoneFault(f"{phone}: its answer is none of hexport's ({why}); see what else uses the phone") from None


class PhoneProcess:
    """An instance runs a process of `phone_side` in the folder of a job. `load_s` holds the seconds that the phone took
    to load the program, the last time.

    It is used as a context: outside of the block, nothing runs. A run, from the load on, may take `device.timeout`
    seconds.
    """

    def __init__(self, folder: JobFolder, device: Device, task: dict, progress: Progress):
        self.phone = folder.phone
        self._folder, self._device, self._progress = folder, device, progress
        self._task = {"program": PROGRAM, **task}
        self._number = itertools.count()
        self._running = contextlib.ExitStack()

    def __enter__(self) -> "PhoneProcess":
        try:
            self._start()
        except BaseException:
            self._running.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._running.__exit__(*error)

    def renew(self) -> None:
        """Start the process again, where that would leave a run more time. Raises as `ask` does."""
        if time.monotonic() - self._started > FRESH_S:
            try:
                self._stream.rest()  # the process ends with its input, and leaves its memory to the next one
            except PassingFault:
                raise
            except PhoneFault:  # its time is over, and closing kills it
                pass
            self._running.close()
            self._start()

    def ask(self, request: dict) -> Iterator[Event]:
        """Send a request and yield what the phone says then. The caller knows which event is the last one.

        Raises PassingFault where the link broke or an answer is damaged, PhoneFault where the phone reports an error or
        the process is gone.
        """
        name = f"request-{next(self._number)}.json"
        self._folder.write(name, json.dumps(request).encode())
        self._stream.write(f"{name}\n".encode())
        while True:
            yield self._event()

    def _start(self) -> None:
        with self._progress.stage("load"):
            argv = [self._device.python, "-m", MODULE]
            opened = self._folder.start(argv, ENVIRONMENT, self._device.timeout)
            self._stream: Stream = self._running.enter_context(opened)
            self._started = time.monotonic()
            loaded = next(self.ask(self._task))
            with understood(self.phone):
                self.load_s = seconds(loaded.json()["load_s"])

    def _event(self) -> Event:
        line = next(self._stream.lines(), None)
        if line is None:
            raise self._ended()
        digest, _, header = line.partition(b" ")
        if digest != b"%08x" % zlib.crc32(header):
            said = f"{self.phone}: {line[:60]!r}"
            raise PassingFault(f"{said} is no answer of hexport's, or one that was damaged on its way; try again")
        with understood(self.phone):
            facts = _object(header)
            name, size, digest = str(facts["event"]), facts["bytes"], facts["sha256"]
            count(size, LIMIT)
        return self._checked(Event(name, facts, self._stream.read(size)), size, digest)

    def _checked(self, event: Event, size: int, digest: str) -> Event:
        if len(event.payload) < size:
            raise self._ended()
        if hashlib.sha256(event.payload).hexdigest() != digest:
            raise PassingFault(f"{self.phone}: an answer of {size} bytes arrived damaged; try again")
        if event.name == "error":
            with understood(self.phone):
                error = event.json()
                line, missing = said_by_phone(str(error["line"])), said_by_phone(str(error["missing"] or ""))
            raise self._reported(line, missing)
        return event

    def _reported(self, line: str, missing: str) -> PhoneFault:
        """Return what the phone says that is wrong; what led to it goes to the log."""
        with contextlib.suppress(PhoneFault):
            self._progress.log(self._stream.rest().stderr.decode(errors="replace"))
        python = f"{self.phone}: {self._device.python}"
        if missing:
            return PhoneFault(
                f"{python} has no module {missing}; install executorch {metadata.version('executorch')} for "
                "it, which brings torch and numpy, or name another one as python in devices.yaml"
            )
        return PhoneFault(f"{python}: {line}; see the log of the run")

    def _ended(self) -> PhoneFault:
        """Return why a process is gone that should have answered. Where a signal ended it, PhoneFault is raised."""
        self._progress.log(self._stream.rest().stderr.decode(errors="replace"))
        output = self._stream.output()
        python = f"{self.phone}: {self._device.python}"
        if output.code == NOT_FOUND:
            return PhoneFault(f"{python} is not there; name the Python of this device as python in devices.yaml")
        return PhoneFault(f"{python} ended with exit code {output.code}: {output.last_line()}; see the log of the run")


def seconds(value: object) -> float:
    """Return a time in seconds as a float. Raises ValueError for what is no number from 0 up to MOST_S."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < MOST_S:
        raise ValueError(f"seconds: {value!r}")
    return float(value)


def count(value: object, most: int) -> int:
    """Return a whole number from 0 to `most`. Raises ValueError for anything else."""
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"a number up to {most}: {value!r}")
    return value


def _object(text: bytes) -> dict:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value
