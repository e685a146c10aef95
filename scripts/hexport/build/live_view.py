"""The live view shows the jobs that run, at the foot of a terminal, and is redrawn every second.

What this process and those it starts write to stdout and stderr goes through a pipe and appears above the view, in
full, so no output breaks the view.
"""

import atexit
import contextlib
import os
import select
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from rich.ansi import AnsiDecoder
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hexport.errors import printable
from hexport.progress import last_said, step_of

LOOK_S = 1.0
PIECE = 1 << 16  # bytes of the pipe at a time
BAR_WIDTH = 12


@dataclass
class RunningJob:
    """A running job is shown with what its log said last. `of` says in words which model, recipe and so on it is about,
    `log` is its own file, which a job on another machine writes, too, and `since` is in seconds of the monotonic clock.
    """

    rule: str
    of: str
    log: Path | None
    since: float = field(default_factory=time.monotonic)
    said: str = ""

    def __post_init__(self):
        self._seen = self._state()  # what an earlier job has left there is not this one's

    def look(self) -> None:
        """Read the end of the log, if there is something new in it."""
        state = self._state()
        if state and state != self._seen:
            self._seen = state
            with contextlib.suppress(OSError):  # it has gone in between
                self.said = printable(last_said(self.log)) or self.said

    def _state(self) -> tuple[int, int, int] | None:
        try:
            stat = os.stat(self.log or "")
        except OSError:
            return None
        return stat.st_ino, stat.st_size, stat.st_mtime_ns

    @property
    def elapsed(self) -> str:
        """Return the time since the job began, as 02:05 or 1:02:05."""
        return _clock(self.since)


class LiveView:
    """A live view shows the jobs that run, and how many of `total` are done, from when it is made until `close`. stderr
    must be a terminal."""

    def __init__(self, total: int):
        self.done, self.total = 0, total
        self._since = time.monotonic()
        self._running: dict[int, RunningJob] = {}
        self._is_open = True
        self._terminal = {number: os.dup(number) for number in (1, 2) if os.isatty(number)}
        self._output, end = os.pipe()
        for number in self._terminal:
            os.dup2(end, number)
        os.close(end)
        self._closing = os.eventfd(0)
        self._thread = threading.Thread(target=self._show, daemon=True)  # else Python would wait for it before atexit
        self._thread.start()
        atexit.register(self.close)

    def begin(self, number: int, rule: str, of: str, log: Path | None) -> None:
        """Show a job, also one that is tried again."""
        self._running[number] = RunningJob(rule, of, log)

    def end(self, number: int) -> RunningJob | None:
        """Take a job out of the view and return it, if it was there."""
        return self._running.pop(number, None)

    def close(self) -> None:
        """Show what was printed until now, take the view away, and give the terminal back."""
        if self._is_open:
            self._is_open = False
            sys.stdout.flush()
            sys.stderr.flush()
            for number, terminal in self._terminal.items():
                os.dup2(terminal, number)
            os.eventfd_write(self._closing, 1)
            self._thread.join()

    def _show(self) -> None:
        try:
            with open(self._terminal[2], "w", encoding=sys.stderr.encoding, errors="replace", closefd=False) as file:
                self._draw(_Console(file=file, highlight=False))
        except Exception:  # such as a terminal that is gone; who writes must not wait for one who reads
            while (piece := self._written(LOOK_S)) is not None:
                with contextlib.suppress(OSError):
                    os.write(self._terminal[2], piece)

    def _draw(self, console: Console) -> None:
        decoder, rest, next_look = AnsiDecoder(), b"", 0.0
        options = {"auto_refresh": False, "transient": True, "redirect_stdout": False, "redirect_stderr": False}
        with Live(console=console, get_renderable=lambda: self._view(console), **options) as live:
            while (piece := self._written(next_look - time.monotonic())) is not None:
                *lines, rest = (rest + piece).split(b"\n")
                _print(console, decoder, lines)
                if time.monotonic() >= next_look:
                    for job in list(self._running.values()):
                        job.look()
                    live.refresh()
                    next_look = time.monotonic() + LOOK_S
        _print(console, decoder, [rest] if rest else [])

    def _written(self, timeout_s: float) -> bytes | None:
        """Return the bytes that are written within this time; None where the view is closed and all is read."""
        ready = select.select([self._output, self._closing], [], [], max(0.0, timeout_s))[0]
        if self._output in ready and (piece := os.read(self._output, PIECE)):
            return piece
        return None if self._closing in ready else b""

    def _view(self, console: Console) -> Table:
        jobs = sorted(self._running.values(), key=lambda job: (not job.said, job.since))
        shown = jobs[: max(1, (console.height - 3) // 2)]
        # At the end of its last line, there is room for the ^C of a terminal.
        table = Table.grid(padding=(0, 1))
        table.width = max(console.width - 6, 2 * BAR_WIDTH)
        table.add_column(no_wrap=True, ratio=1)
        table.add_column(no_wrap=True, justify="right", width=BAR_WIDTH)
        head = f"{self.done} of {self.total} jobs done, {len(jobs)} running, {_clock(self._since)}"
        table.add_row(Text(head, style="bold"), _bar(self.done, self.total))
        for job in shown:
            table.add_row(Text.assemble((job.rule, "bold"), f" {job.of}"), _clock(job.since))
            if job.said:
                step = step_of(job.said)
                table.add_row(Text(f"  {job.said}"), _bar(*step) if step else "")
        if len(jobs) > len(shown):
            table.add_row(f"and {len(jobs) - len(shown)} more")
        return table


class _Console(Console):
    def show_cursor(self, show: bool = True) -> bool:
        """Never hide the cursor: a process that is killed or stopped could not bring it back."""
        return False


def _bar(done: int, total: int) -> ProgressBar:
    return ProgressBar(total=total, completed=done, width=BAR_WIDTH)


def _print(console: Console, decoder: AnsiDecoder, lines: list[bytes]) -> None:
    if lines:
        text = b"\n".join(lines).decode(errors="replace")
        console.print(*(decoder.decode_line(line) for line in text.split("\n")), sep="\n", soft_wrap=True)


def _clock(since: float) -> str:
    """Return the time since then, as 02:05 or 1:02:05."""
    return str(timedelta(seconds=int(time.monotonic() - since))).removeprefix("0:")
