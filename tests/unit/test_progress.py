"""Progress as a user sees it: in a log, on a pipe, and on a terminal; each in a process of its own."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hexport.progress import Progress

SCRIPTS = Path(__file__).parents[2] / "scripts"

# `fails` and `log` come before this text. The noises are those of Python, of C and of the system's calls.
JOB = """
import atexit, ctypes, os, sys
from pathlib import Path
from hexport.errors import HexportError, one_line_errors
from hexport.progress import Progress

atexit.register(ctypes.CDLL(None).puts, b"noise at the end")  # as QNN does

@one_line_errors
def main():
    progress = Progress(Path(log) if log else None)
    with progress.library_output_in_log():
        with progress.stage("warm up"):
            print("python noise")
            print("python error noise", file=sys.stderr)
            ctypes.CDLL(None).printf(b"C noise\\n")
            os.system("echo noise of a process; echo error noise of a process >&2")
        for i in progress.steps(range(3), "stamp", 3):
            if fails and i == 1:
                raise HexportError("the weights are broken; get others")
    print("late noise")

main()
"""


def job(log: Path | None, fails: bool) -> str:
    return f"log, fails = {str(log) if log else None!r}, {fails}\n{JOB}"


ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{SCRIPTS}:{Path(__file__).parent}"}


def on_pipes(log: Path | None, fails: bool) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", job(log, fails)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)


def on_terminal(log: Path | None, fails: bool) -> str:
    return output_on_terminal(job(log, fails))


def output_on_terminal(program: str) -> str:
    """What a terminal gets from the stdout and stderr of a Python program."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", program]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    received = b""
    try:
        while part := os.read(ours, 1 << 16):
            received += part
    except OSError:  # Linux reports the end of a terminal as an error
        pass
    os.close(ours)
    process.wait()
    return received.decode()


def on_screen(received: str) -> list[str]:
    """The lines that stay on a screen: one that is erased and written anew counts once."""
    return [line.rsplit("\r\x1b[2K", 1)[-1] for line in received.replace("\r\n", "\n").split("\n") if line]


STEPS = ["stamp: layer 1 of 3", "stamp: layer 2 of 3, 0 s left", "stamp: layer 3 of 3, 0 s left"]


def test_the_log_has_plain_lines_with_stage_and_layer_and_all_that_libraries_print(tmp_path):
    done = on_pipes(tmp_path / "folder" / "log", fails=False)
    assert (done.returncode, done.stdout) == (0, "")
    log = (tmp_path / "folder" / "log").read_text()
    said = re.findall(r"^\d\d:\d\d:\d\d (.*)$", log, re.MULTILINE)
    assert said[0] == "warm up …"
    assert re.fullmatch(r"warm up: \d+\.\d s, peak \d+ MB", said[1])
    assert said[2:] == STEPS
    for noise in ("python", "python error", "C", "late"):
        assert f"\n{noise} noise\n" in log
    assert "noise of a process\n" in log
    assert log.endswith("noise at the end\n")
    assert "\x1b" not in log
    assert "\r" not in log
    assert done.stderr.splitlines() == said


def test_an_error_is_one_line_behind_the_progress_and_the_noise_stays_in_the_log(tmp_path):
    done = on_pipes(tmp_path / "log", fails=True)
    assert (done.returncode, done.stdout) == (1, "")
    *progress, error = done.stderr.splitlines()
    assert error == "error: the weights are broken; get others"
    assert progress[2:] == STEPS[:2]
    assert not any("noise" in line for line in progress)
    assert "C noise" in (tmp_path / "log").read_text()
    assert "noise at the end" in (tmp_path / "log").read_text()
    assert "error:" not in (tmp_path / "log").read_text()


def test_on_a_terminal_steps_overwrite_each_other(tmp_path):
    screen = on_screen(on_terminal(tmp_path / "log", fails=False))
    assert re.fullmatch(r"warm up: \d+\.\d s, peak \d+ MB", screen[0])
    assert screen[1:] == STEPS[-1:]


@pytest.mark.parametrize("with_log", [True, False])
def test_on_a_terminal_an_error_has_a_line_of_its_own(tmp_path, with_log):
    screen = on_screen(on_terminal(tmp_path / "log" if with_log else None, fails=True))
    error = screen.index("error: the weights are broken; get others")
    assert screen[error - 1] == STEPS[1]
    assert any("noise" in line for line in screen) != with_log


def test_without_a_log_all_is_on_the_terminal():
    done = on_pipes(None, fails=False)
    assert "late noise\n" in done.stdout
    assert "C noise\n" in done.stdout
    assert STEPS[-1] in done.stderr.splitlines()


def test_stages_record_seconds_and_peak_memory():
    progress = Progress()
    with progress.stage("small"):
        pass
    with progress.stage("large"):
        block = bytearray(300 << 20)
        block[:: 1 << 10] = b"x" * len(block[:: 1 << 10])
    small, large = progress.stages["small"], progress.stages["large"]
    assert list(progress.stages) == ["small", "large"]
    assert 0 <= small["seconds"] < large["seconds"] < 60
    assert large["peak_rss_mb"] >= max(300, small["peak_rss_mb"])


def test_time_left_follows_from_the_steps_done(capsys, monkeypatch):
    clock = iter([0.0, 10.0, 20.0, 30.0])
    monkeypatch.setattr("hexport.progress.time.perf_counter", lambda: next(clock))
    assert list(Progress().steps("abcd", "stamp", 4)) == list("abcd")
    assert capsys.readouterr().err.splitlines() == [
        "stamp: layer 1 of 4",
        "stamp: layer 2 of 4, 30 s left",
        "stamp: layer 3 of 4, 20 s left",
        "stamp: layer 4 of 4, 10 s left",
    ]


@pytest.fixture
def clock(monkeypatch):
    """Stands still, but for what is added to `clock.now`."""

    class Clock:
        now = 0.0

    monkeypatch.setattr("hexport.progress.time.perf_counter", lambda: Clock.now)
    return Clock


def lines_of(capsys, name: str) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith(f"{name}: ")]


def test_steps_that_cost_more_count_for_more(clock, capsys):
    for cost in Progress().steps([1.0, 3.0, 6.0], "search", 3, costs=[1.0, 3.0, 6.0]):
        clock.now += 2 * cost
    assert lines_of(capsys, "search") == [
        "search: layer 1 of 3",
        "search: layer 2 of 3, 18 s left",
        "search: layer 3 of 3, 12 s left",
    ]


def test_time_left_is_that_of_all_parts_announced(clock, capsys):
    """Each part takes twice as long here as announced, the last one three times."""
    progress = Progress()
    progress.announce({"first": 10.0, "second": 20.0, "third": 5.0})
    for _ in progress.steps(range(2), "first", 2):
        clock.now += 10
    assert lines_of(capsys, "first") == ["first: layer 1 of 2", "first: layer 2 of 2, 60 s left"]
    for _ in progress.steps(range(2), "second", 2):
        clock.now += 20
    assert lines_of(capsys, "second") == ["second: layer 1 of 2, 50 s left", "second: layer 2 of 2, 30 s left"]
    for _ in progress.steps(range(3), "third", 3):
        clock.now += 5
    assert lines_of(capsys, "third")[1:] == ["third: layer 2 of 3, 10 s left", "third: layer 3 of 3, 5 s left"]


def test_a_part_that_was_not_announced_counts_by_itself_in_front_of_those_to_come(clock, capsys):
    progress = Progress()
    progress.announce({"known": 10.0, "to come": 30.0})
    for _ in progress.steps(range(2), "known", 2):
        clock.now += 5
    for _ in progress.steps(range(2), "unknown", 2):
        clock.now += 100
    assert lines_of(capsys, "unknown") == ["unknown: layer 1 of 2", "unknown: layer 2 of 2, 2 min left"]
    for _ in progress.steps(range(1), "to come", 1):
        pass
    assert capsys.readouterr().err == "to come: layer 1 of 1, 30 s left\n"


def test_nothing_is_promised_by_the_speed_of_a_small_part(clock, capsys):
    progress = Progress()
    progress.announce({"small": 1.0, "large": 99.0})
    for name in ("small", "large"):
        for _ in progress.steps(range(10), name, 10):
            clock.now += 1
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines[:11] if "left" in line] == []
    assert lines[11:13] == ["large: layer 2 of 10, 9 s left", "large: layer 3 of 10, 8 s left"]


@pytest.mark.parametrize(("seconds", "said"), [(99, "99 s"), (100, "2 min"), (5400, "90 min"), (9000, "2.5 h")])
def test_long_times_are_not_counted_in_seconds(clock, capsys, seconds, said):
    for _ in Progress().steps(range(2), "stamp", 2):
        clock.now += seconds
    assert lines_of(capsys, "stamp")[1] == f"stamp: layer 2 of 2, {said} left"


def test_what_comes_to_the_log_can_be_followed_whoever_writes_it(tmp_path):
    progress = Progress(tmp_path / "log")
    progress.say("before")
    followed = progress.follow_log()
    assert next(followed) == ""
    with open(tmp_path / "log", "a") as log:
        log.write("a line\nhalf")
    assert next(followed) == "a line\nhalf"
    with open(tmp_path / "log", "a") as log:
        log.write(" of one\r")
    assert next(followed) == " of one\n"
    assert next(followed) == ""
    assert next(Progress().follow_log()) == ""
