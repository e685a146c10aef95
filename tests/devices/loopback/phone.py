"""A loopback device as tests hold it: a process, with its control socket and its journal."""

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from loopback.control import ask

_numbers = itertools.count()


class LoopbackDevice:
    """A device, from start to end of a `with` block. `address` is its serial, at an adb server that is connected."""

    def __init__(self, root: str | Path, port: int = 0, args: Sequence[str] = ()):
        self.root = os.path.abspath(root)
        os.makedirs(self.root, exist_ok=True)
        self.journal = os.path.join(self.root, "journal.jsonl")
        self._control = f"loopback-{os.getpid()}-{next(_numbers)}"
        places = ("--root", self.root, "--port", str(port), "--control", self._control, "--log", self.journal)
        self._command = [sys.executable, "-m", "loopback", *places, *map(str, args)]

    def __enter__(self) -> "LoopbackDevice":
        folder = str(Path(__file__).resolve().parents[1])
        environment = os.environ | {"PYTHONPATH": folder}
        self.p = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True, env=environment)
        line = self.p.stdout.readline()
        if not (ready := re.search(r"address=(\S+)", line)):
            raise RuntimeError(f"the loopback device did not start: {line!r}")
        self.address = ready[1]
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        end(self.p)

    def control(self, request: dict) -> dict:
        answer = ask(self._control, request)
        if not answer["ok"]:
            raise ValueError(answer["error"])
        return answer

    def fault(self, **rule: object) -> dict:
        """Add a rule: see `loopback.faults.Fault`."""
        return self.control({"op": "add", "rule": rule})

    def events(self, kind: str | None = None) -> list[dict]:
        """What the journal says: push, pull, shell, …"""
        with open(self.journal, encoding="utf-8") as file:
            events = [json.loads(line) for line in file]
        return [event for event in events if kind in (None, event["event"])]

    def host_path(self, path: str) -> str:
        """Where a path of the device lies on the host; not that of /data/local/tmp with a --disk-size of its own."""
        return self.root + path


def end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout:
        process.stdout.close()
