"""Malformed inputs of all kinds are refused in one line each, in little time and memory, and nothing else happens.

`make fuzz` runs more of them, from other seeds.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_model import build_tiny

FUZZ = Path(__file__).parent
COUNT = 414  # of all subjects together, 18 of each


def run(*words: str) -> None:
    done = subprocess.run([sys.executable, str(FUZZ), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", ["--no-torch", "--torch"])
def test_malformed_inputs(kind, keep, tmp_path):
    report = tmp_path / "report.json"
    words = [kind, "--count", str(COUNT), "--json", str(report)]
    if kind == "--torch":
        words += ["--tiny", str(keep("tiny", build_tiny))]
    run(*words)
    subjects = {subject["subject"]: subject["cases"] for subject in json.loads(report.read_text())}
    assert min(subjects.values()) == 18
    assert len(subjects) >= (5 if kind == "--torch" else 18)
