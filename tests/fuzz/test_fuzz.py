"""Malformed inputs of all kinds are refused in one line each, in little time and memory, and nothing else happens.

`make fuzz` runs more of them, from other seeds.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parent
COUNT = 800  # of both kinds together


def run(*words: str) -> str:
    done = subprocess.run([sys.executable, str(FUZZ), *words], capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", ["--no-torch", "--torch"])
def test_malformed_inputs(kind, keep):
    words = [kind, "--count", str(COUNT), "--json"]
    if kind == "--torch":
        words += ["--tiny", str(keep("fuzz", build_tiny))]
    found = [json.loads(line) for line in run(*words).splitlines()]
    failures = {subject["subject"]: subject["failures"] for subject in found if subject["failures"]}
    assert not failures, json.dumps(failures, indent=1)
    assert sum(subject["cases"] for subject in found) >= (150 if kind == "--torch" else 600)


def build_tiny(folder: Path) -> None:
    run("--build-tiny", str(folder))
