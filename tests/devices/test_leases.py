"""One job per phone at a time, across processes and users, whatever ends a job."""

import json
import multiprocessing
import os
import pwd
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from hexport.devices.link.adb import Phone
from hexport.devices.phones import leases
from hexport.errors import HexportError

FORK = multiprocessing.get_context("fork")
PHONE = Phone("s24", "R5CX", "127.0.0.1", 5037)
MYSELF = pwd.getpwuid(os.getuid()).pw_name


@pytest.fixture(autouse=True)
def folder(monkeypatch):
    """A temporary folder of the test's own, which every user may write to, and leases of its own."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o1777)
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
        monkeypatch.setattr(leases, "TEMPORARY", Path(folder))
        monkeypatch.setattr(leases, "NAMESPACE", Path(folder).name)
        yield Path(folder)


def in_process(work, *args):
    process = FORK.Process(target=work, args=args)
    process.start()
    return process


def result_of(work):
    """What a function returns in another process."""
    with FORK.Pool(1) as pool:
        return pool.apply(work)


def hold(connection, with_child=False):
    with leases.lease(PHONE):
        child = subprocess.Popen(["sleep", "60"]) if with_child else None
        connection.send(child and child.pid)
        connection.recv()


def work_alone(folder, rounds, overlaps):
    for _ in range(rounds):
        while not (lease := leases.lease(PHONE)):
            time.sleep(0.001)
        with lease:
            try:
                os.mkdir(folder / "at work")  # fails where another one is at work
            except FileExistsError:
                overlaps.value += 1
            time.sleep(0.002)
            os.rmdir(folder / "at work")


def test_two_processes_never_hold_one_phone_together(folder):
    overlaps = FORK.Value("i", 0)
    workers = [in_process(work_alone, folder, 40, overlaps) for _ in range(3)]
    for worker in workers:
        worker.join(20)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert overlaps.value == 0


@pytest.mark.parametrize("with_child", [False, True])
def test_kill_9_of_the_holder_frees_the_phone(with_child):
    ours, theirs = FORK.Pipe()
    process = in_process(hold, theirs, with_child)
    child = ours.recv()
    assert leases.lease(PHONE) is None
    assert f"(process {process.pid})" in leases.holder(PHONE)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    try:
        assert leases.holder(PHONE) is None
        with leases.lease(PHONE) as lease:
            assert lease.phone == PHONE
    finally:
        if child:
            os.kill(child, signal.SIGKILL)


def test_the_holder_is_named_only_while_it_holds():
    assert leases.holder(PHONE) is None
    with leases.lease(PHONE):
        assert f"(process {os.getpid()}), since " in leases.holder(PHONE)
        assert leases.lease(PHONE) is None  # not even in the same process
    assert leases.holder(PHONE) is None


def test_asking_for_the_holder_leaves_nothing_behind(folder):
    assert leases.holder(PHONE) is None
    assert leases.set_aside(PHONE) is None
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "serial", ["../../../escaped", "/", "", "a\nb", "'$(reboot)'", "电话" * 300, "\udc80", "127.0.0.1:1"]
)
def test_any_serial_gives_one_safe_file(folder, serial):
    phone = Phone("odd", serial, "127.0.0.1", 5037)
    with leases.lease(phone), leases.lease(PHONE):
        assert leases.lease(phone) is None
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) == 2
    assert {path.parent for path in files} == {folder / f"hexport-{os.getuid()}"}


def test_a_phone_is_its_server_and_serial_whatever_its_name():
    with leases.lease(PHONE):
        assert leases.lease(Phone("the same", PHONE.serial, "localhost", 5037)) is None
        for other in (Phone("s24", "R5CY", "127.0.0.1", 5037), Phone("s24", "R5CX", "10.0.0.7", 5037)):
            with leases.lease(other) as lease:
                assert lease.phone == other


TORN = [
    b"",
    b'{"pid": 12, "user": "al',
    b"\xff\xfe",
    b"[1, 2]",
    b"[" * 100_000,
    b'{"reason": "hot", "until": "tomorrow", "pid": 1, "user": "a", "what": "b", "since": "today"}',
    b'{"reason": "hot", "until": NaN, "pid": 1, "user": "a", "what": "b", "since": Infinity}',
]


@pytest.mark.parametrize("text", TORN)
def test_a_torn_text_breaks_nothing(folder, text):
    with leases.lease(PHONE):
        pass
    (file,) = folder.rglob("*.json")
    file.write_bytes(text)
    assert leases.set_aside(PHONE) is None
    assert leases.holder(PHONE) is None
    with leases.lease(PHONE):
        file.write_bytes(text)
        assert leases.holder(PHONE) == f"a program of {MYSELF} (process {os.getpid()})"
        assert leases.lease(PHONE) is None
    with leases.lease(PHONE) as lease:
        lease.set_aside("no space")
    assert leases.set_aside(PHONE)[0] == "no space"


def test_a_phone_set_aside_is_so_in_every_process_until_it_is_trusted():
    with leases.lease(PHONE) as lease:
        lease.set_aside("it is hot\nand \x1b[31mred")
    reason, left = result_of(asked_elsewhere)
    assert reason == "it is hot and  [31mred"
    assert 290 < left <= 300
    with leases.lease(PHONE):
        assert leases.set_aside(PHONE)  # a lease alone proves nothing
    with leases.lease(PHONE) as lease:
        lease.trust()
    assert result_of(asked_elsewhere) is None


def asked_elsewhere():
    return leases.set_aside(PHONE)


def test_a_phone_is_set_aside_for_a_while_only(monkeypatch):
    monkeypatch.setattr(leases, "SET_ASIDE_S", 1.0)
    with leases.lease(PHONE) as lease:
        lease.set_aside("it is hot")
    assert leases.set_aside(PHONE)
    time.sleep(1.1)
    assert leases.set_aside(PHONE) is None


def test_a_clock_set_back_does_not_set_a_phone_aside_for_longer(folder):
    with leases.lease(PHONE) as lease:
        lease.set_aside("it is hot")
    (file,) = folder.rglob("*.json")
    file.write_text(json.dumps({"reason": "it is hot", "until": time.time() + 1e6}))
    assert leases.set_aside(PHONE)[1] <= 300


def as_nobody():
    os.setgid(65534)
    os.setuid(65534)
    os.umask(0o077)
    if taken := leases.lease(PHONE):
        with taken:
            taken.set_aside("nobody's reason")
    with leases.lease(Phone("other", "X", "127.0.0.1", 5037)):
        pass
    return leases.holder(PHONE), leases.set_aside(PHONE)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_several_users_exclude_each_other_and_write_to_no_file_of_each_other(folder):
    with leases.lease(PHONE) as lease:
        lease.set_aside("root's reason")
        holder, reason = result_of(as_nobody)
        assert holder == f"a program of root (process {os.getpid()})" and reason is None
    holder, reason = result_of(as_nobody)
    assert holder is None and reason[0] == "nobody's reason"
    assert leases.set_aside(PHONE)[0] == "root's reason"
    found = {path.name: (path.stat().st_uid, path.stat().st_mode & 0o777) for path in folder.iterdir()}
    assert found == {"hexport-0": (0, 0o700), "hexport-65534": (65534, 0o700)}


def as_link(folder, own):
    (folder / "other").mkdir()
    own.symlink_to(folder / "other")


def as_file(folder, own):
    own.write_bytes(b"")


def writable_by_all(folder, own):
    own.mkdir()
    own.chmod(0o777)


def of_another_user(folder, own):
    own.mkdir(0o700)
    os.chown(own, 65534, 65534)


@pytest.mark.parametrize("make", [as_link, as_file, writable_by_all, of_another_user], ids=lambda make: make.__name__)
def test_a_folder_that_is_not_this_users_alone_is_refused(folder, make):
    if make is of_another_user and os.geteuid():
        pytest.skip("only root can give a folder away")
    own = folder / f"hexport-{os.getuid()}"
    make(folder, own)
    before = sorted(folder.rglob("*"))
    with pytest.raises(HexportError, match=f"{own}: not a folder of this user alone.*; remove it"):
        leases.lease(PHONE)
    assert leases.holder(PHONE) is None and leases.set_aside(PHONE) is None
    assert sorted(folder.rglob("*")) == before


def link_to_a_file(note, folder):
    (folder / "precious").write_text("precious")
    note.symlink_to(folder / "precious")


def fifo(note, folder):
    os.mkfifo(note)


@pytest.mark.parametrize("make", [link_to_a_file, fifo], ids=lambda make: make.__name__)
def test_a_link_or_a_fifo_in_a_notes_place_is_refused_at_once(folder, make):
    with leases.lease(PHONE):
        pass
    (note,) = folder.rglob("*.json")
    note.unlink()
    make(note, folder)
    assert leases.set_aside(PHONE) is None
    with pytest.raises(HexportError, match="not a plain file; remove it"):
        leases.lease(PHONE)
    assert leases.holder(PHONE) is None
    assert not (folder / "precious").exists() or (folder / "precious").read_text() == "precious"


def test_notes_lie_in_the_folder_of_the_users_session_where_there_is_one(folder, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder / "session"))
    with leases.lease(PHONE):
        assert f"(process {os.getpid()}), since " in leases.holder(PHONE)
    assert not (folder / "session").exists()
    (folder / "session").mkdir()
    with leases.lease(PHONE) as lease:
        lease.set_aside("it is hot")
    assert list((folder / "session").rglob("*.json")) and leases.set_aside(PHONE)
