"""Runs Python programs as `subprocess.run` does, in forks of a process that has made their imports already.

Imports are most of what a run of Snakemake or of a script takes. A fork is a process of its own, with its own working
folder, environment, arguments, files and exit code; only modules that are named here are loaded when it starts.
"""

import json
import os
import runpy
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path


class Forks:
    """A process that has imported `modules`, from which programs are forked; it is started by the first one."""

    def __init__(self, *modules: str):
        self.modules = modules
        self.process: subprocess.Popen | None = None
        self.lock = threading.Lock()

    def run(
        self, program: str, *args: str, cwd: Path | None = None, env: Mapping[str, str], input: str = ""
    ) -> subprocess.CompletedProcess:
        """Run the file, or the module if there is no such file, to its end; its output is kept apart, as text."""
        with tempfile.TemporaryDirectory() as folder:
            files = [f"{folder}/{name}" for name in ("in", "out", "err")]
            Path(files[0]).write_text(input)
            request = {"program": program, "args": args, "cwd": str(cwd or Path.cwd()), "env": dict(env)}
            code = self._answer(json.dumps(request | {"files": files}))
            out, err = (Path(file).read_text() if Path(file).exists() else "" for file in files[1:])
            return subprocess.CompletedProcess([program, *args], code, out, err)

    def _answer(self, request: str) -> int:
        with self.lock:
            if self.process is None:
                command, pipe = [sys.executable, __file__, *self.modules], subprocess.PIPE
                self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
            self.process.stdin.write(request + "\n")
            self.process.stdin.flush()
            return int(self.process.stdout.readline())

    def __del__(self):
        if self.process:
            self.process.stdin.close()  # which ends it
            self.process.wait()


def serve() -> None:
    """Fork for each line of stdin, a request, and write the exit code of the fork; in a fork, return the program."""
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        if (pid := os.fork()) == 0:
            return become(json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=answers, flush=True)
    sys.exit()


def become(request: dict) -> str:
    """Take the place of a new process with these files, folder, environment and arguments; gives its program."""
    for fd, file in enumerate(request["files"]):
        opened = os.open(file, os.O_RDWR | os.O_CREAT | (os.O_APPEND if fd else 0))
        os.dup2(opened, fd)
        os.close(opened)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - what the old one has read ahead is not this program's
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    program = request["program"]
    is_file = Path(program).is_file()
    sys.path[0] = str(Path(program).parent) if is_file else os.getcwd()
    sys.argv = [program, *request["args"]]
    return program


if __name__ == "__main__":
    for module in sys.argv[1:]:
        import_module(module)
    program = serve()
    if Path(program).is_file():
        runpy.run_path(program, run_name="__main__")
    else:
        runpy.run_module(program, run_name="__main__", alter_sys=True)
