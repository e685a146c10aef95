"""Runs one case in a fork of this process, under limits of time and memory, and says what was wrong with the outcome.

A fork has all imports done, so a case costs milliseconds. What it may spend is bounded by the kernel: address space,
seconds of CPU, bytes of a file; and by a deadline.
"""

import contextlib
import os
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path

from case import Call, Case
from commands import call

ADDRESSES = 4 << 30  # bytes beyond what the server has already: here the kernel ends it
MEMORY_MB = 512  # what is more than this, resident, is too much for inputs of a few kB
CPU_SECONDS = 10
FILE_BYTES = 1 << 28
DEADLINE = 20  # seconds
LONGEST_LINE = 2100
NOT_PREPARED = 99  # exit code of a case that is itself at fault
STDERR, STDOUT, LOG = "stderr", "stdout", "log"


@dataclass(frozen=True)
class Outcome:
    status: int  # as of os.wait
    hung: bool
    memory_mb: int  # at its peak, beyond what the server has
    stderr: bytes
    stdout: bytes
    said: list[str]  # lines of progress
    log: str
    left: list[str]  # artifacts and parts of them after a failure
    outside: list[str]  # files that were written, changed or removed outside the case's folder


def faults(case: Case, folder: Path, show: bool = False) -> list[str]:
    """What a user could complain of; nothing if the case was refused as it should be. `show` prints what it said."""
    outcome = _run(case, folder)
    if show:
        print(outcome.stderr.decode(errors="replace"), end="")
    if os.WIFEXITED(outcome.status) and os.WEXITSTATUS(outcome.status) == NOT_PREPARED:
        raise RuntimeError(f"case {case.name} is wrong itself:\n{outcome.stderr.decode()}")
    found = [f"wrote outside its folder: {path}" for path in outcome.outside]
    if outcome.memory_mb > MEMORY_MB:
        found.append(f"took {outcome.memory_mb} MB")
    if outcome.hung:
        return [*found, f"did not end in {DEADLINE} s"]
    if os.WIFSIGNALED(outcome.status):
        name = signal.Signals(os.WTERMSIG(outcome.status)).name
        return [*found, f"killed by {name}" + (f" after {CPU_SECONDS} s of CPU" if name == "SIGXCPU" else "")]
    if os.WEXITSTATUS(outcome.status) == 0:
        return found if case.may_pass else [*found, "accepted in silence"]
    return found + _faults_of_text(outcome) + [f"left behind: {path}" for path in outcome.left]


def _faults_of_text(outcome: Outcome) -> list[str]:
    try:
        text = outcome.stderr.decode()
    except UnicodeDecodeError:
        return ["printed what is no UTF-8"]
    # Not splitlines: a carriage return or U+2028 does not begin a line of ours, and may not be printed.
    lines = [line for line in text.split("\n") if line]
    errors = [line for line in lines if line not in outcome.said]
    if "Traceback" in text:
        return [f"a traceback: {errors[-1] if errors else ''}"]
    if not errors:
        return ["failed without a word"]
    found = [f"not a line `error: …`: {line!r:.300}" for line in errors if not line.startswith("error: ")][:1]
    found += [f"unprintable characters: {line!r:.300}" for line in errors if not line.isprintable()][:1]
    found += [f"a line of {len(line)} characters: {line!r:.80}" for line in errors if len(line) > LONGEST_LINE][:1]
    found += [f"taken for a bug: {line:.300}" for line in errors if "a bug of hexport" in line][:1]
    found += ["ran out of memory" for line in errors if "out of memory" in line][:1]
    return found


def _run(case: Case, folder: Path) -> Outcome:
    """In `folder`/case/…/work; whatever appears in `folder` but there is outside."""
    work = folder / "a" / "b" / "c" / "work"
    work.mkdir(parents=True)
    (folder / "outside").mkdir()
    (folder / "outside" / "kept").write_text("kept")
    before = _listing(folder, work)
    sys.stdout.flush()
    sys.stderr.flush()
    if not (child := os.fork()):
        _child(case, work)
    status, hung, peak_kb = _wait(child)
    own_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome = Outcome(
        status,
        hung,
        max(0, peak_kb - own_kb) // 1024,
        _read(work / STDERR),
        _read(work / STDOUT),
        _said(work / LOG),
        _read(work / LOG).decode(errors="replace"),
        _left(work / "out"),
        sorted(str(path) for path, _ in before ^ _listing(folder, work)),
    )
    shutil.rmtree(folder)
    return outcome


def _child(case: Case, work: Path) -> None:
    code = NOT_PREPARED
    try:
        os.setpgid(0, 0)
        os.chdir(work)
        Path("tmp").mkdir()
        os.environ["TMPDIR"], tempfile.tempdir = str(work / "tmp"), None
        for descriptor, name in ((1, STDOUT), (2, STDERR)):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
        made: Call = case.prepare()
        code = 1
        _limit()
        code = call(made)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _limit() -> None:
    with open("/proc/self/statm") as statm:
        now = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + ADDRESSES, now + ADDRESSES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _wait(child: int) -> tuple[int, bool, int]:
    """Status, whether the deadline ended it, and its peak memory in kB. Its own children end too."""
    descriptor = os.pidfd_open(child)
    hung = not select.select([descriptor], [], [], DEADLINE)[0]
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.close(descriptor)
    _, status, usage = os.wait4(child, 0)
    return status, hung, usage.ru_maxrss


def _listing(folder: Path, work: Path) -> set[tuple[Path, str]]:
    """Files outside `work` with their content."""
    files = (Path(at, name) for at, _, names in os.walk(folder) for name in names)
    return {(file.relative_to(folder), file.read_text()) for file in files if not file.is_relative_to(work)}


def _left(folder: Path) -> list[str]:
    """What a failed command may not leave: artifacts, and parts of them; a download may go on from its .partial."""
    if not folder.is_dir():
        return []
    return [file.name for file in folder.rglob("*") if file.is_file() and file.suffix not in (".partial", ".log")]


def _said(log: Path) -> list[str]:
    """The lines of progress, which a log has with the time in front."""
    return [line[9:] for line in _read(log).decode(errors="replace").split("\n") if re.match(r"\d\d:\d\d:\d\d ", line)]


def _read(path: Path) -> bytes:
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return file.read(1 << 24)
    return b""
