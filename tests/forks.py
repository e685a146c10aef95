"""A Python that starts in a moment: its processes are forks of one that has made the imports already.

Imports are most of what a run of Snakemake or of a script takes. A fork is a process of its own, with its own working
folder, environment, arguments, files and exit code; only modules that are named here are loaded when it starts. What it
starts with `sys.executable` is a fork, too.
"""

import atexit
import contextlib
import fcntl
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from typing import NoReturn

# Nothing of hexport, and nothing of executorch that looks for the QNN libraries.
MODULES = (
    *("snakemake.cli", "jsonschema", "yaml", "tokenizers", "transformers", "lm_eval.evaluator", "datasets"),
    *("executorch.exir.program", "executorch.runtime", "torchao.quantization.pt2e.quantize_pt2e"),
)

# These read their settings from the environment when they are imported: with settings, a fork imports them itself.
HUB_SETTINGS = {"HF_ENDPOINT", "HF_HOME", "HF_TOKEN"}
HUB_READERS = ("huggingface_hub", "transformers", "datasets", "evaluate", "lm_eval")
# Asks the server beside it for a fork with its arguments, folder, environment and files; ends as the fork does.
CLIENT = """\
#!{python} -SEs
import array, json, os, signal, socket, sys
if sys.argv[1] == "-I":  # apart from all else, and with little memory
    os.execv("{python}", ["{python}", *sys.argv[1:]])
files = [int(name) for name in os.listdir("/proc/self/fd")]
files = [file for file in files if os.path.exists(f"/proc/self/fd/{{file}}")]
server = socket.socket(socket.AF_UNIX)
server.connect(os.path.dirname(os.path.abspath(__file__)) + "/socket")
request = [sys.argv, os.getcwd(), dict(os.environ), files]
request = json.dumps(request).encode()
header = len(request).to_bytes(8, "little")
server.sendmsg([header], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))])
server.sendall(request)
code = int(server.recv(16) or 1)
if code < 0:
    signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
    os.kill(os.getpid(), -code)
os._exit(code)
"""
MAX_FILES = 200
VARIABLE = "FORKED_PYTHON"
PLUGINS = str(Path(__file__).parent / "workflow" / "executor")  # Snakemake looks for them when it is imported


class Forks:
    """The Python, and the process that it forks, which is started by the first use.

    Processes that this one starts use the same.
    """

    def __init__(self):
        self.lock = threading.Lock()
        self.server: subprocess.Popen | None = None

    @property
    def python(self) -> str:
        """An executable for `subprocess`. It takes arguments as Python does: a file, -m or -c."""
        with self.lock:
            if VARIABLE not in os.environ:
                self._start()
        return os.environ[VARIABLE]

    def run(
        self, *args: str, cwd: Path | None = None, env: Mapping[str, str], input: str = ""
    ) -> subprocess.CompletedProcess:
        """Run a program to its end; its output is kept apart, as text."""
        return subprocess.run([self.python, *args], cwd=cwd, env=env, input=input, capture_output=True, text=True)

    def _start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        client = Path(self.folder.name, "python")
        client.write_text(CLIENT.format(python=sys.executable))
        client.chmod(0o700)
        env = {name: value for name, value in os.environ.items() if name != "QNN_SDK_ROOT"}
        env |= {"PYTHONPATH": PLUGINS}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.server = subprocess.Popen([sys.executable, __file__, self.folder.name], env=env, **pipes)
        self.server.stdout.readline()  # it listens, and makes its imports
        os.environ[VARIABLE] = str(client)

    def __del__(self):
        if self.server:
            self.server.stdin.close()  # which ends it
            self.server.wait()
            self.folder.cleanup()


FORKS = Forks()


class Server:
    """Forks for each client that connects, and sends it the exit code; a fork whose client is gone is killed."""

    def __init__(self, folder: Path):
        self.client = str(folder / "python")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(folder / "socket"))
        self.listener.listen(64)
        self.selector = selectors.DefaultSelector()
        self.selector.register(0, selectors.EVENT_READ, lambda: os._exit(0))  # closed by the one who started this
        self.selector.register(self.listener, selectors.EVENT_READ, self._fork)

    def serve(self) -> list[str]:
        """In a fork, return the arguments of its program."""
        while True:
            for key, _ in self.selector.select():
                if arguments := key.data():
                    return arguments

    def _fork(self) -> list[str] | None:
        connection, _ = self.listener.accept()
        header, files, _, _ = socket.recv_fds(connection, 8, MAX_FILES)
        request = b""
        while len(request) < int.from_bytes(header, "little"):
            request += connection.recv(1 << 16)
        if (pid := os.fork()) == 0:
            connection.close()
            return self._become(*json.loads(request), files)
        for file in files:
            os.close(file)
        self._watch(pid, connection)
        return None

    def _watch(self, pid: int, connection: socket.socket) -> None:
        process = os.pidfd_open(pid)

        def kill() -> None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

        def ended() -> None:
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            self.selector.unregister(process)
            self.selector.unregister(connection)
            os.close(process)
            with connection, contextlib.suppress(OSError):  # the client is gone
                connection.sendall(str(code).encode())

        self.selector.register(process, selectors.EVENT_READ, ended)
        self.selector.register(connection, selectors.EVENT_READ, kill)

    def _become(
        self, argv: list[str], cwd: str, env: dict[str, str], numbers: list[int], files: list[int]
    ) -> list[str]:
        """Take the place of a new process with these arguments, folder, environment and files, under their numbers."""
        for key in list(self.selector.get_map().values()):
            if key.fileobj != 0:
                os.close(key.fileobj) if isinstance(key.fileobj, int) else key.fileobj.close()
        self.selector.close()
        high = [fcntl.fcntl(file, fcntl.F_DUPFD, 1000) for file in files]
        for file in (*files, 0, 1, 2):
            os.close(file)
        for number, file in zip(numbers, high, strict=True):
            os.dup2(file, number)
            os.close(file)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - what the old one has read ahead is not this program's
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)
        if HUB_SETTINGS & env.keys():
            for name in [name for name in sys.modules if name.split(".")[0] in HUB_READERS]:
                del sys.modules[name]
        sys.executable = self.client
        return argv[1:]


def run(arguments: list[str]) -> None:
    """Run the program of these arguments of Python."""
    flags = list(takewhile(lambda argument: argument in ("-P", "-u"), arguments))  # -u: output goes out in any case
    safe_path = "-P" in flags
    option, *rest = arguments[len(flags) :]
    match option:
        case "-m":
            sys.path[0], sys.argv = os.getcwd(), rest
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        case "-c":
            sys.path[0], sys.argv = "", ["-c", *rest[1:]]
            if safe_path:
                del sys.path[0]
            exec(rest[0], {"__name__": "__main__"})
        case file:
            sys.path[0], sys.argv = str(Path(file).parent), [file, *rest]
            runpy.run_path(file, run_name="__main__")


def end(code: object) -> NoReturn:
    """End as Python does for `sys.exit(code)`, but for the seconds in which it takes all modules apart."""
    if not isinstance(code, int | None):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # waits for threads
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit((code or 0) & 0xFF)


if __name__ == "__main__":
    server = Server(Path(sys.argv[1]))
    print("ready", flush=True)
    for module in MODULES:
        import_module(module)
    gc.freeze()  # what a fork does not touch is in memory once
    gc.set_threshold(100_000, 50, 50)
    arguments = server.serve()
    try:
        run(arguments)
    except SystemExit as exit:
        end(exit.code)
    except BaseException:
        traceback.print_exc()
        end(1)
    end(0)
