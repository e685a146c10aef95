"""The view of running jobs on a terminal, with whatever programs write beside it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from terminal import Terminal

from hexport.progress import last_said, step_of

SCRIPTS = Path(__file__).parents[2] / "scripts"
START = """\
import os, signal, subprocess, sys, time
from pathlib import Path
from hexport.build.live_view import LiveView

def wait(name):
    while not Path(name).exists():
        time.sleep(0.01)

view = LiveView(total=120)
"""


@pytest.fixture
def on_terminal(tmp_path) -> Iterator:
    """Runs a program that has a view, in an empty folder."""
    terminals = []

    def run(program: str) -> Terminal:
        env = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
        terminals.append(Terminal(sys.executable, "-c", START + program, cwd=tmp_path, env=env, rows=24))
        return terminals[0]

    yield run
    for terminal in terminals:
        terminal.close()


def test_what_anyone_writes_stands_above_the_view(on_terminal, tmp_path):
    terminal = on_terminal("""
print("a line of ours")
print("\\x1b[31mred,\\nand red\\x1b[0m", file=sys.stderr)
os.write(2, b"half ")
subprocess.run("echo of a line; printf '\\\\377\\\\n' >&2; echo 50%; printf '10%%\\\\r20%%\\\\n'", shell=True)
view.begin(7, "calibrate", "a 16a8w", Path("log"))
view.done = 3
wait("go")
os.write(1, b"no end of line")
""")
    above = ["a line of ours", "red,", "and red", "half of a line", "�", "50%", "20%"]
    lines = terminal.wait_for(lambda lines: lines[:-2] == above and lines[-1].startswith("calibrate a 16a8w  "))
    assert lines[-2].startswith("3 of 120 jobs done, 1 running, 00:")
    (tmp_path / "log").write_text("12:00:00 weights: layer 3 of 18, 2 min left\nof a library\n")
    assert terminal.wait_for(lambda lines: lines[-1].startswith("  weights: layer 3 of 18, 2 min left"))[:-3] == above
    (tmp_path / "go").touch()
    assert terminal.end() == 0
    assert terminal.lines == [*above, "no end of line"]
    assert not terminal.screen.cursor.hidden


def test_what_an_earlier_job_has_left_in_a_log_is_not_shown(on_terminal, tmp_path):
    (tmp_path / "log").write_text("12:00:00 old\n")
    terminal = on_terminal("""
view.begin(1, "calibrate", "a", Path("log"))
view.begin(2, "calibrate", "b", Path("other"))
Path("other").write_text("12:00:00 new\\n")
wait("go")
""")
    lines = terminal.wait_for(lambda lines: any("new" in line for line in lines))
    assert not any("old" in line for line in lines)


def test_of_many_jobs_a_screen_full_is_shown(on_terminal, tmp_path):
    terminal = on_terminal("""
for i in range(100):
    view.begin(i, "calibrate", f"model{i}", Path(f"{i}.log"))
Path("77.log").write_text("12:00:00 layer 1 of 2\\n")
wait("go")
""")

    def drawn(lines: list[str]) -> bool:
        return any("layer 1 of 2" in line for line in lines) and lines[-1].endswith(" more")

    lines = terminal.wait_for(drawn)
    assert len(lines) <= 24
    assert lines[0].startswith("0 of 120 jobs done, 100 running")
    assert lines[1].startswith("calibrate model77 ")
    assert lines[-1] == f"and {100 - (len(lines) - 3)} more"


def test_an_error_of_python_is_shown_in_full_and_the_view_goes(on_terminal):
    terminal = on_terminal('view.begin(1, "calibrate", "a", None)\nraise RuntimeError("so it ends")')
    assert terminal.end() == 1
    assert terminal.lines[0] == "Traceback (most recent call last):"
    assert terminal.lines[-1] == "RuntimeError: so it ends"


def test_who_writes_does_not_wait_for_a_terminal_that_is_gone(on_terminal, tmp_path):
    """As after `nohup`: the hangup is not heard."""
    terminal = on_terminal("""
signal.signal(signal.SIGHUP, signal.SIG_IGN)
print("ready")
wait("go")
subprocess.run([sys.executable, "-c", "print('x' * 10_000_000)"])
Path("written").touch()
""")
    terminal.wait_for(lambda lines: "ready" in lines)
    terminal.hang_up()
    (tmp_path / "go").touch()
    terminal.process.wait(60)
    assert (tmp_path / "written").exists()


def test_the_last_line_of_a_log(tmp_path):
    log = tmp_path / "log"
    log.write_text(
        "12:00:00 read …\n| 12:00:01 of another program\n12:00:02 HTP compiler: Graph Optimizations\nnoise\n"
    )
    assert last_said(log) == "HTP compiler: Graph Optimizations"
    with log.open("a") as file:
        file.write(" [##        ]  20% \r [####      ]  38% \r")
    assert last_said(log) == "HTP compiler: Graph Optimizations, 38%"
    with log.open("a") as file:
        file.write("12:00:03 compile: 0.6 s, peak 590 MB\n")
    assert last_said(log) == "compile: 0.6 s, peak 590 MB"
    with log.open("a") as file:
        file.write("noise\n" * 1000)
    assert last_said(log) == ""


@pytest.mark.parametrize(
    ("line", "step"),
    [("weights: layer 3 of 18, 2 min left", (2, 18)), ("compile: 0.6 s, peak 590 MB", None), ("0 of 0", None)],
)
def test_how_far_a_line_says_that_a_job_is(line, step):
    assert step_of(line) == step


def test_in_a_view_a_job_writes_news_only(tmp_path):
    """The rest is in its log, which the view reads."""
    program = """
from pathlib import Path
from hexport.progress import Progress
progress = Progress(Path("log"))
with progress.stage("weights"):
    for _ in progress.steps(range(3), "weights", 3):
        pass
progress.say("warning: few tokens")
"""
    env = {**os.environ, "PYTHONPATH": str(SCRIPTS), "HEXPORT_IN_VIEW": "1"}
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout + done.stderr == "warning: few tokens\n"
    said = [line[9:].partition(": ")[2].partition(",")[0] for line in (tmp_path / "log").read_text().splitlines()]
    assert said[1:4] == [f"layer {i} of 3" for i in (1, 2, 3)]
    assert said[-1] == "few tokens"
