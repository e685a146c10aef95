"""This module says how far a long stage is, on the terminal and as plain lines in a log, and takes the time and peak
memory of every stage."""

import contextlib
import ctypes
import itertools
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
ENOUGH = 0.05  # part of a job; from the speed of less, nothing is promised
IN_VIEW = "HEXPORT_IN_VIEW"  # environment variable of a job: a live view on the terminal shows what its log says
END_OF_LOG = 4096  # bytes in which the last line that was said is looked for
SAID = re.compile(r"\d\d:\d\d:\d\d (.+)")
STEP = re.compile(r"(\d+) of ([1-9]\d*)")
BAR = re.compile(r" *\[#* *\] +(\d+%)")  # of the HTP compiler


class Progress:
    """A progress says what a job is doing and records what each stage cost. `stages` has the cost of each stage by its
    name, such as `{"seconds": 12.345, "peak_rss_mb": 678}`.

    Lines go to the log file and to stderr. Where stderr is a terminal, the steps of a stage overwrite one line there.
    Where a live view shows the log, steps and costs are in the log alone.
    """

    def __init__(self, log: Path | None = None):
        self.stages: dict[str, dict] = {}
        self._with_child_mb = 0.0
        self._to_come: dict[str, float] = {}  # parts that were announced and have not begun
        self._announced_s = self._taken_s = 0.0  # of those that have ended: as announced, and as it came
        self._terminal = sys.stderr
        self._line_open = False  # a passing line stands on the terminal
        self._in_view = log is not None and IN_VIEW in os.environ
        self._file = None
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(log, "w", encoding="utf-8", buffering=1)  # noqa: SIM115 - lives as long as the job

    def say(self, line: str, *, passing: bool = False, cost: bool = False) -> None:
        """Write one line; a passing line is overwritten by the next one on a terminal. `cost` marks a line that says
        what a stage took."""
        if self._file:
            self._file.write(f"{time.strftime('%H:%M:%S')} {line}\n")
        if self._in_view and (passing or cost):
            return
        if self._terminal.isatty():
            self._overwrite(line, passing)
        else:
            print(line, file=self._terminal, flush=True)

    def show(self, line: str) -> None:
        """Write a passing line to the terminal alone, if there is one: what changes too often for a log."""
        if self._terminal.isatty():
            self._overwrite(line, passing=True)

    def _overwrite(self, line: str, passing: bool) -> None:
        print(f"\r\x1b[2K{line}", end="" if passing else "\n", file=self._terminal, flush=True)
        self._line_open = passing

    def log(self, text: str) -> None:
        """Write what another program said to the log only, if there is one."""
        if self._file:
            self._file.writelines(f"| {line}\n" for line in text.splitlines())

    def follow_log(self) -> Iterator[str]:
        """Return an iterator that gives at each `next` what has come to the log since the one before, whoever wrote it,
        and without waiting for more. A carriage return ends a line too. Without a log, nothing comes."""
        if self._file is None:
            return itertools.repeat("")
        log = open(self._file.name, encoding="utf-8", errors="replace")  # noqa: SIM115 - closed with the iterator
        log.seek(0, os.SEEK_END)
        return iter(log.read, None)

    @contextlib.contextmanager
    def library_output_in_log(self) -> Iterator[None]:
        """Send what libraries print, in Python and in native code, to the log only, to the end of the process: QNN also
        prints while it ends. After an error, Python's stderr is the terminal again.
        """
        if self._file is not None:
            self._terminal = os.fdopen(os.dup(2), "w")
            sys.stdout.flush()
            sys.stderr.flush()
            ctypes.CDLL(None).fflush(None)  # what C holds back
            for descriptor in (1, 2):
                os.dup2(self._file.fileno(), descriptor)
        try:
            yield
        except BaseException:
            sys.stderr.flush()
            sys.stderr = self._terminal
            if self._line_open:
                print(file=sys.stderr)
            raise

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage; record its seconds, and the peak memory of the process up to its end, with that of a child
        process, under `name`.
        """
        self.say(f"{name} …", passing=True)
        start = time.perf_counter()
        yield
        seconds, peak = time.perf_counter() - start, max(peak_rss_mb(), self._with_child_mb)
        self.stages[name] = {"seconds": round(seconds, 3), "peak_rss_mb": round(peak)}
        self.say(f"{name}: {seconds:.1f} s, peak {peak:.0f} MB", cost=True)

    def add_child(self, peak_mb: float) -> None:
        """Count a child process, which had this peak while this process had the memory that it has now."""
        self._with_child_mb = max(self._with_child_mb, _memory_mb("VmRSS") + peak_mb)

    def announce(self, parts: dict[str, float]) -> None:
        """Say what `steps` will go through, by name, and the seconds that each part takes on a machine like any other.

        From then on, the time left is that of the whole job: of parts to come, by the speed of those that are done. It
        is not said before enough of them are.
        """
        self._to_come |= parts

    def steps(
        self, items: Iterable[T], name: str, count: int, unit: str = "layer", costs: Sequence[float] | None = None
    ) -> Iterator[T]:
        """Iterate, saying `name: unit i of count, t s left` before each step, as soon as a speed is known.

        `costs` are what each step takes in relation to the others; they are alike by default.
        """
        announced = self._to_come.pop(name, None)
        costs = costs or [1.0] * count
        done, total, start = 0.0, sum(costs), time.perf_counter()
        for i, item in enumerate(items):
            left = self._left(announced, done / total, time.perf_counter() - start if i else 0.0)
            self.say(f"{name}: {unit} {i + 1} of {count}{left}", passing=True)
            yield item
            done += costs[i]
        if announced is not None:
            self._announced_s += announced
            self._taken_s += time.perf_counter() - start

    def _left(self, announced: float | None, done: float, taken: float) -> str:
        """Return the end of a step's line, for a part that is `done` to this fraction and has taken so many seconds. It
        is empty while no speed is known."""
        own = taken / done * (1 - done) if done else None
        known, to_come = self._announced_s + (announced or 0.0) * done, sum(self._to_come.values())
        if known and known >= ENOUGH * (self._announced_s + (announced or 0.0) + to_come):
            slowness = (self._taken_s + (taken if announced else 0.0)) / known
            if own is None and announced:
                own = announced * slowness
            to_come *= slowness
        elif to_come:
            return ""
        return "" if own is None else f", {duration(own + to_come)} left"


def last_said(log: Path) -> str:
    """Return the line that a job said last, with how far the HTP compiler's bar behind it is; an empty text where the
    last few kilobytes of its log have none. Raises OSError where there is no such file."""
    with open(log, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - END_OF_LOG))
        lines = re.split(r"[\r\n]", file.read().decode(errors="replace"))
    said = bar = ""
    for line in lines:
        if match := SAID.fullmatch(line):
            said, bar = match[1], ""
        elif said and (match := BAR.match(line)):
            bar = f", {match[1]}"
    return said + bar


def step_of(line: str) -> tuple[int, int] | None:
    """Return (2, 18) for a line that says `layer 3 of 18`: the steps that are done, and all. Return None for a line
    without steps."""
    found = STEP.search(line)
    return (int(found[1]) - 1, int(found[2])) if found else None


def duration(seconds: float) -> str:
    """Return so many seconds in words: `42 s`, `5 min` or `2.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def peak_rss_mb() -> float:
    """Return the peak resident memory of this process so far, in MB.

    It is not getrusage's ru_maxrss, which a process inherits from the one that started it.
    """
    return _memory_mb("VmHWM")


def _memory_mb(key: str) -> float:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(f"{key}:")) / 1024
