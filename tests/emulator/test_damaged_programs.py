"""Programs whose bytes are not those that were written: one line, or the right answer; never a signal or a hang."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from subprocess import PIPE

import pytest
from damaged_programs import DAMAGES, outcomes
from tiny_model import EMULATOR, SCRIPTS

from hexport.config.devices import Device
from hexport.devices.emulator_runs import run_on_emulator
from hexport.errors import HexportError
from hexport.programs.inspection import inspect_program
from hexport.programs.inspection_process import facts_of
from hexport.progress import Progress

SETTINGS = {
    "model": "tiny",
    "recipe": "16a8w",
    "target": EMULATOR,
    "mode": "kv",
    "prompts": ["On"],
    "system_prompt": "",
    "temperature": 0.0,
    "seq_len": 6,
    "repeats": 1,
    "warmup": 0,
}


def test_a_damaged_program_is_refused_in_a_line_or_answers_as_the_whole_one(tiny, tmp_path):
    found = outcomes(tiny.program, tmp_path, 150)
    assert {kind for kind, _ in found} == set(DAMAGES)
    # Tables that are whole but say what is not true can crash the emulator: its child process is for them (see below).
    found = [(kind, said) for kind, said in found if (kind, said[:7]) != ("a bit of the tables", "signal:")]
    assert len(found) > 145
    answers = {outcome for _, outcome in found if outcome.startswith("answered: ")}
    assert len(answers) == 1  # of those whose damage lies where nothing is read
    refusals = [outcome for _, outcome in found if outcome.startswith("refused: ")]
    assert len(refusals) + sum(outcome in answers for _, outcome in found) == len(found), found
    assert len(refusals) > 100
    for refusal in refusals:
        assert "\n" not in refusal
        assert "damaged.pte" in refusal


def test_facts_that_come_from_another_process_are_the_same(tiny):
    assert facts_of(tiny.program) == inspect_program(tiny.program)


def test_an_emulator_that_takes_longer_than_its_timeout_is_ended(tiny):
    emulator = Device(name="emulator", kind="emulator", soc="SM8650", timeout=0.5)
    with pytest.raises(HexportError) as error:
        run_on_emulator(emulator, tiny.program, tiny.tokenizer, SETTINGS, Progress())
    assert str(error.value).startswith(f"{tiny.program}: the emulator took more than 0.5 s; the program may be damaged")


def test_an_emulator_that_crashes_is_one_line_and_leaves_nothing(tiny, tmp_path):
    """The signal comes from outside, so that it surely comes, while the program answers."""
    devices, folder = tmp_path / "devices.yaml", tmp_path / "kv"
    devices.write_text("devices:\n  emulator: {kind: emulator, soc: SM8650}\n")
    options = {"devices": devices, "device": "emulator", "program": tiny.program, "tokenizer": tiny.tokenizer}
    options |= {"output": folder / "result.json", "log": tmp_path / "log"}
    command = [sys.executable, SCRIPTS / "run_program.py", "--settings", "-"]
    command += [word for option, value in options.items() for word in (f"--{option}", value)]
    with subprocess.Popen(command, stdin=PIPE, stderr=PIPE, text=True) as run:
        run.stdin.write(json.dumps({**SETTINGS, "repeats": 1000}))
        run.stdin.close()
        wait_until(
            lambda: "answer: token 1" in (tmp_path / "log").read_text() if (tmp_path / "log").exists() else False
        )
        (emulator,) = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        os.kill(int(emulator), signal.SIGSEGV)
        *_, line = run.stderr.read().splitlines()
    assert run.returncode == 1
    assert line.startswith(f"error: {tiny.program}: the emulator crashed with SIGSEGV; the program may be damaged")
    assert not folder.exists()
    assert "Fatal Python error: Segmentation fault" in (tmp_path / "log").read_text()


def wait_until(condition) -> None:
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)
