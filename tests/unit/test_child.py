"""Child processes: their answers, and one line where they crash, hang or vanish."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hexport import child
from hexport.child import Child, ChildError, answer
from hexport.errors import HexportError
from hexport.lowering.sent_arrays import receive_array, send_array
from hexport.progress import Progress

NAMES = {"what": "k.pte: the emulator", "advice": "copy it again"}


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Children find the functions below in this file."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def work(progress: Progress, what: str, *arguments) -> object:
    """Runs in a child."""
    match what:
        case "report":
            progress.say("begun")
            with progress.stage("load"):
                progress.log("words of a library")
            return [list(arguments), os.getpid()]
        case "signal":
            os.kill(os.getpid(), arguments[0])
        case "exit":
            os._exit(arguments[0])
        case "hang":
            time.sleep(60)
        case "fault":
            raise HexportError("one line", "another line")
        case "file":
            return open("/no/such/file").read()
        case "memory":
            raise MemoryError
        case "bug":
            return arguments[0] / 0


def in_child(*arguments, **options) -> object:
    return answer(work, *arguments, progress=options.pop("progress", Progress()), **NAMES, **options)


def address(connection) -> None:
    """Runs in a child: tell where its memory lies."""
    connection.send_bytes(str(id(object())).encode())


def test_children_with_the_same_addresses_have_them_whatever_their_environment(monkeypatch):
    found = set()
    for i in range(3):
        monkeypatch.setenv("PADDING", "x" * 1000 * i)
        with Child(address, **NAMES, same_addresses=True) as same:
            found.add(same.receive(60))
    assert len(found) == 1


def test_the_answer_and_the_progress_are_those_of_the_child(tmp_path, capsys):
    progress = Progress(tmp_path / "log")
    (arguments, pid) = in_child("report", 1, "a", progress=progress)
    assert arguments == [1, "a"]
    assert pid != os.getpid()
    assert progress.stages["load"].keys() == {"seconds", "peak_rss_mb"}
    assert [line.split(": ")[0] for line in capsys.readouterr().err.splitlines()] == ["begun", "load …", "load"]
    assert "| words of a library" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("arguments", "how"),
    [
        (["signal", signal.SIGSEGV], "crashed with SIGSEGV"),
        (["signal", signal.SIGABRT], "crashed with SIGABRT"),
        (["signal", signal.SIGKILL], "was killed, maybe for lack of memory"),
        (["exit", 3], "ended with exit code 3 and no answer"),
        (["exit", 0], "ended with exit code 0 and no answer"),
    ],
)
def test_a_child_that_ends_without_an_answer_is_one_line(arguments, how):
    with pytest.raises(ChildError) as error:
        in_child(*arguments)
    assert str(error.value) == f"k.pte: the emulator {how}; copy it again"


def test_a_child_that_hangs_is_ended_at_its_deadline():
    start = time.monotonic()
    with pytest.raises(ChildError, match=r"k\.pte: the emulator took more than 1 s; copy it again"):
        in_child("hang", timeout=1)
    assert time.monotonic() - start < 30


def test_a_child_that_says_nothing_for_long_is_ended(monkeypatch):
    monkeypatch.setattr(child, "SILENCE_S", 1.0)
    with pytest.raises(ChildError, match="said nothing for 1 s"):
        in_child("hang")


@pytest.mark.parametrize("meanwhile", [None, lambda: None])
def test_what_native_code_printed_before_a_crash_is_not_lost(meanwhile, capfd):
    with Child(print_and_crash, **NAMES) as process, pytest.raises(ChildError, match="was killed"):
        process.receive(meanwhile=meanwhile)
    assert "last words\n" in capfd.readouterr().out


def print_and_crash(connection) -> None:
    """Runs in a child."""
    import ctypes

    ctypes.CDLL(None).puts(b"last words")
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_parent_can_look_around_while_a_child_works():
    looks = []
    with Child(answer_slowly, **NAMES) as process:
        assert process.receive(meanwhile=lambda: looks.append(process.send(len(looks)))) == b"0"
    assert looks


def answer_slowly(connection) -> None:
    """Runs in a child: answers what its parent sends while it waits."""
    connection.send_bytes(str(connection.recv()).encode())


def test_a_child_that_hangs_is_ended_at_its_deadline_while_its_parent_looks_around():
    with (
        Child(hang, **NAMES, timeout=1) as process,
        pytest.raises(ChildError, match="took more than 1 s"),
    ):
        process.receive(meanwhile=lambda: None)
    with Child(hang, **NAMES) as process, pytest.raises(ChildError, match="said nothing for 1 s"):
        process.receive(1, meanwhile=lambda: None)


def hang(connection) -> None:
    """Runs in a child."""
    time.sleep(60)


def test_errors_of_the_child_are_raised_here():
    with pytest.raises(HexportError) as fault:
        in_child("fault")
    assert fault.value.args == ("one line", "another line")
    with pytest.raises(FileNotFoundError) as missing:
        in_child("file")
    assert missing.value.filename == "/no/such/file"
    with pytest.raises(MemoryError):
        in_child("memory")
    with pytest.raises(RuntimeError, match=r"k\.pte: the emulator: ZeroDivisionError") as bug:
        in_child("bug", 1)
    assert "return arguments[0] / 0" in bug.value.__notes__[0]


def test_a_child_ends_with_a_parent_that_is_killed():
    scripts = Path(child.__file__).parents[1]
    code = f"import sys; sys.path.insert(0, {str(scripts)!r}); from test_child import in_child; in_child('hang')"
    parent = subprocess.Popen([sys.executable, "-c", code])
    listed = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    grandchild = waited_for(lambda: listed.read_text().split())[0]
    waited_for(lambda: ignores_interrupts(grandchild))  # it has set itself up
    parent.kill()
    parent.wait()
    waited_for(lambda: has_ended(grandchild))


def has_ended(pid: str) -> bool:
    """Whoever took over the process may take its time to hear of its end."""
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def ignores_interrupts(pid: str) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return any(line.startswith("SigIgn:") and int(line.split()[1], 16) & 1 << signal.SIGINT - 1 for line in lines)


def waited_for(condition):
    end = time.monotonic() + 60
    while not (value := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return value


def give_back(connection, n_arrays: int) -> None:
    """Runs in a child."""
    arrays = [receive_array(connection) for _ in range(n_arrays)]
    connection.send_bytes(repr([(array.dtype.str, array.shape, array.tolist()) for array in arrays]).encode())


def test_arrays_of_any_form_arrive_as_they_are():
    arrays = [
        np.arange(300_000, dtype=np.int32),  # more than a pipe holds
        np.arange(24, dtype=np.uint16).reshape(2, 3, 4)[:, ::2].T,
        np.zeros((0, 3), np.float32),
        np.array(7, np.uint8),
    ]
    with Child(give_back, len(arrays), **NAMES) as process:
        for array in arrays:
            send_array(process, array)
        found = process.receive(60)
    assert found.decode() == repr([(array.dtype.str, array.shape, array.tolist()) for array in arrays])


def test_a_child_that_ends_before_it_has_all_of_an_array_is_one_line():
    with Child(give_back, 0, **NAMES) as process, pytest.raises(ChildError, match="ended with exit code 0"):
        process.receive(60)
        for _ in range(3):
            send_array(process, np.zeros(1_000_000))
