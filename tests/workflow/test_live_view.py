"""What a user sees of running jobs: on a terminal, where they end or are ended, and in a log."""

import re
import time
from collections.abc import Iterator

import pytest
from terminal import Terminal
from workflow_tree import SNAKEMAKE, Tree, copy_workflow, environment, write_checkpoint

CONFIG = """\
socs: [SM8650]
models:
  a:
    checkpoint: checkpoints/a
    calibration: {prompts: [Once upon a time]}
    max_seq_len: 32
"""
# The job of `encode_calibration` takes until a file `go` is there.
LAYERS = """\
import subprocess, sys, time
from pathlib import Path

from hexport.progress import Progress
from hexport.provenance import write_manifest

options = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
output, progress = Path(options["--output"]), Progress(Path(options["--log"]))
progress.say(f"warning: {'the-sea-is-rough-' * 12}indeed")
subprocess.run(["echo", "noise of a program"])
with progress.stage("weights"):
    for i in progress.steps(range(18), "weights", 18):
        while i == 2 and not Path("go").exists():
            time.sleep(0.01)
output.write_text("{}")
write_manifest(output, script=__file__, inputs={}, params={}, stages={})
"""
TARGET = "artifacts/a/calibration/tokens.json"
JOB, STEP = "encode_calibration a", "weights: layer 3 of 18"
WARNING = f"warning: {'the-sea-is-rough-' * 12}indeed"


@pytest.fixture
def layers(tmp_path) -> Tree:
    """A tree with a job that has many layers."""
    copy_workflow(tmp_path)
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "devices.yaml").write_text("devices: {emulator: {kind: emulator, soc: SM8650}}\n")
    write_checkpoint(tmp_path / "checkpoints" / "a")
    (tmp_path / "scripts" / "encode_calibration.py").write_text(LAYERS)
    return Tree(tmp_path)


@pytest.fixture
def terminal(layers) -> Iterator[Terminal]:
    terminal = Terminal(*SNAKEMAKE, TARGET, cwd=layers.path, env=environment())
    yield terminal
    terminal.close()


def in_the_third_layer(lines: list[str]) -> bool:
    return any(STEP in line for line in lines)


def test_on_a_terminal_running_jobs_are_in_a_view_that_leaves_a_line_of_each(layers, terminal):
    lines = terminal.wait_for(in_the_third_layer)
    head, job, step = lines[-3:]
    assert head.startswith("1 of 2 jobs done, 1 running, 00:")
    assert re.fullmatch(rf"{JOB} +00:\d\d", job)
    assert step.strip().startswith(STEP)
    above = lines[:-3]
    assert any(line.startswith("extract_tokenizer a: 00:") for line in above)
    assert WARNING in "".join(above)
    assert "noise of a program" in above
    assert not any(word in line for line in lines for word in ("jobid", "Finished", "Select", "peak", "layer 2"))
    (layers.path / "go").touch()
    assert terminal.end() == 0
    assert not any("jobs done" in line or STEP in line for line in terminal.lines)
    assert not terminal.screen.cursor.hidden and terminal.screen.cursor.x == 0
    left, took, after = terminal.lines[terminal.lines.index("noise of a program") + 1 :]
    assert re.fullmatch(rf"{JOB}: 00:\d\d", left)
    assert re.fullmatch(r"this took \d+ s", took)
    assert after.startswith("next: `snakemake export` compiles for every SoC; ")


def test_ctrl_c_ends_the_view_and_its_jobs(layers, terminal):
    terminal.wait_for(in_the_third_layer)
    start = time.monotonic()
    terminal.type("\x03")
    assert terminal.end() == 1
    assert time.monotonic() - start < 20
    assert "Terminating processes on user request" in "\n".join(terminal.lines)
    assert "Error in rule encode_calibration:" in terminal.lines
    assert any(line.startswith("failed: encode_calibration, ") for line in terminal.lines)
    assert not any("jobs done" in line or STEP in line for line in terminal.lines)
    assert not terminal.screen.cursor.hidden and terminal.screen.cursor.x == 0
    assert not (layers.path / TARGET).exists()


def test_without_a_terminal_there_are_plain_lines(layers):
    (layers.path / "go").touch()
    done = layers.snakemake(TARGET)
    said = done.stdout + done.stderr
    assert "\x1b" not in said and "\r" not in said
    lines = said.splitlines()
    assert WARNING in lines
    assert sum(line.startswith("weights: layer ") for line in lines) == 18
    assert "localrule encode_calibration:" in lines
    assert "2 of 2 steps (100%) done" in lines
    assert "jobs done" not in said
    log = (layers.path / TARGET).with_suffix(".log").read_text()
    assert STEP in log and "\x1b" not in log
