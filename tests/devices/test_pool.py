"""Work shared by several phones: real processes, real adb server, loopback phones that really compute."""

import contextlib
import hashlib
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from loopback import LoopbackDevice

from hexport.devices.link.adb import Phone
from hexport.devices.link.faults import PassingFault, PhoneFault
from hexport.devices.phones import leases, pool
from hexport.devices.phones.job import job_folder
from hexport.devices.phones.pool import on_a_phone
from hexport.errors import HexportError
from hexport.progress import Progress

FORK = multiprocessing.get_context("fork")
FOR_EVER = str(10_000_000 + os.getpid())


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)


def online(devices, adb_server):
    phones = [Phone(name, device.address, "127.0.0.1", adb_server.port) for name, device in devices.items()]
    for phone in phones:
        phone.check_online(15)
    return phones


@pytest.fixture(scope="module")
def three(adb_server, tmp_path_factory):
    with contextlib.ExitStack() as stack:
        devices = {name: stack.enter_context(LoopbackDevice(tmp_path_factory.mktemp(name))) for name in "abc"}
        yield online(devices, adb_server)


@pytest.fixture(autouse=True)
def short_waits(tmp_path, monkeypatch):
    """Leases of the test's own, and a phone that is gone is given up soon."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(pool, "ONLINE_S", 0.5)
    monkeypatch.setattr(pool, "SOON_S", 0.5)


class Work:
    """Fails on each phone as told, once per error, and notes which phones it ran on."""

    def __init__(self, errors=None):
        self.errors, self.phones = {name: list(of_phone) for name, of_phone in (errors or {}).items()}, []

    def __call__(self, phone):
        self.phones.append(phone.name)
        assert leases.lease(phone) is None
        if self.errors.get(phone.name):
            raise self.errors[phone.name].pop(0)
        return f"done by {phone.name}"


def lines(tmp_path):
    return (tmp_path / "run.log").read_text().splitlines()


def test_work_goes_to_a_free_phone(three):
    a, _, c = three
    with leases.lease(a), leases.lease(c):
        assert on_a_phone(three, Work(), Progress()) == "done by b"
    for phone in three:
        assert leases.holder(phone) is None


def test_a_passing_fault_is_tried_again_on_the_same_phone(three, tmp_path):
    work = Work({"a": [PassingFault("phone a: link lost"), PassingFault("phone a: damaged")]})
    assert on_a_phone(three[:1], work, Progress(tmp_path / "run.log")) == "done by a"
    assert work.phones == ["a", "a", "a"]
    assert [line[9:] for line in lines(tmp_path)] == [
        "phone a: link lost (try 2 of 3 follows)",
        "phone a: damaged (try 3 of 3 follows)",
    ]
    assert leases.set_aside(three[0]) is None


def test_a_phone_whose_faults_do_not_pass_is_left_after_three_tries(three):
    work = Work({name: [PassingFault(f"phone {name}: damaged")] * 9 for name in ("a", "b")})
    busy = leases.lease(three[2])  # so that a and b come first

    def free_c_then_work(phone):
        if len(work.phones) == 5:
            busy.release()
        return work(phone)

    assert on_a_phone(three, free_c_then_work, Progress()) == "done by c"
    assert sorted(work.phones[:6]) == ["a"] * 3 + ["b"] * 3 and work.phones[6:] == ["c"]
    assert [leases.set_aside(phone) and leases.set_aside(phone)[0] for phone in three] == [
        "phone a: damaged",
        "phone b: damaged",
        None,
    ]


def test_when_no_phone_is_left_each_is_named_with_its_reason(three):
    work = Work({name: [PhoneFault(f"phone {name}: no space left")] for name in "abc"})
    with pytest.raises(PhoneFault) as error:
        on_a_phone(three, work, Progress())
    assert sorted(str(error.value).split("; ")) == [f"phone {name}: no space left" for name in "abc"]
    assert sorted(work.phones) == ["a", "b", "c"]
    assert all(leases.set_aside(phone) for phone in three)


def test_the_only_phone_says_its_own_line(three):
    with pytest.raises(PhoneFault, match=r"^phone a: no space left$"):
        on_a_phone(three[:1], Work({"a": [PhoneFault("phone a: no space left")]}), Progress())


@pytest.mark.parametrize("error", [HexportError("the program crashed"), ValueError("a bug"), KeyboardInterrupt()])
def test_any_other_error_ends_the_run_and_frees_the_phone(three, error):
    work = Work({name: [error] for name in "abc"})
    with pytest.raises(type(error)):
        on_a_phone(three, work, Progress())
    assert len(work.phones) == 1
    for phone in three:
        assert leases.set_aside(phone) is None
        with leases.lease(phone) as lease:
            assert lease.phone == phone


def test_a_busy_phone_is_waited_for_rather_than_one_set_aside(three, tmp_path):
    a, b = three[:2]
    with leases.lease(a) as lease:
        lease.set_aside("phone a: hot")
    busy = leases.lease(b)
    threading.Timer(0.5, busy.release).start()
    assert on_a_phone([a, b], Work(), Progress(tmp_path / "run.log")) == "done by b"
    (line,) = lines(tmp_path)
    assert "waiting for a phone: a is set aside; b is used by " in line and " (process " in line


def test_phones_set_aside_are_tried_where_there_are_no_others_and_trusted_once_they_work(three):
    for phone in three[:2]:
        with leases.lease(phone) as lease:
            lease.set_aside("hot")
    answer = on_a_phone(three[:2], Work(), Progress())
    assert [phone.name for phone in three[:2] if leases.set_aside(phone) is None] == [answer[-1]]


def test_a_phone_set_aside_while_it_was_waited_for_is_not_taken(three):
    """Two phones, both in use; the first to be free has just failed."""
    a, b = three[:2]
    lease_a, lease_b = leases.lease(a), leases.lease(b)

    def fail_a():
        lease_a.set_aside("hot")
        lease_a.release()

    threading.Timer(0.3, fail_a).start()
    threading.Timer(1.0, lease_b.release).start()
    assert on_a_phone([a, b], Work(), Progress()) == "done by b"


def test_a_link_that_comes_back_costs_a_try_only(device, phone, tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "ONLINE_S", 15)
    device.fault(op="shell", match="sha256sum input", after=0.1, action="drop")
    assert on_a_phone([phone], hash_of(0, tmp_path), Progress(tmp_path / "run.log")) == answer_of(0)
    assert any("(try 2 of 3 follows)" in line for line in lines(tmp_path))
    assert leases.set_aside(phone) is None


def test_a_phone_that_does_not_come_back_is_not_tried_again(new_device, adb_server):
    gone = new_device()
    phones = online({"gone": gone}, adb_server)
    work = Work({"gone": [PassingFault("phone gone: link lost")]})

    def lose(phone):
        gone.control({"op": "vanish", "secs": 600})
        wait_for(lambda: phone.state() != "device")
        return work(phone)

    with pytest.raises(PhoneFault, match=r"phone gone .*(offline|missing)"):
        on_a_phone(phones, lose, Progress())
    assert work.phones == ["gone"]


def work_for_ever(phone, started):
    def work(phone):
        with job_folder(phone, {}, 1.0, Progress()) as run, run.start(["sleep", FOR_EVER], {}, 100):
            started.set()
            time.sleep(100)

    on_a_phone([phone], work, Progress())


def sleepers():
    """Processes that `work_for_ever` runs on a phone."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found += [path] if path.read_bytes() == f"sleep\0{FOR_EVER}\0".encode() else []
    return found


def test_the_phone_of_a_killed_process_is_free_and_idle_for_the_next(device, phone, tmp_path):
    started = FORK.Event()
    process = FORK.Process(target=work_for_ever, args=(phone, started))
    process.start()
    assert started.wait(20)
    wait_for(sleepers)
    assert leases.holder(phone)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert on_a_phone([phone], hash_of(1, tmp_path), Progress()) == answer_of(1)
    assert not sleepers()


def content(job):
    return f"input of job {job}".encode() * 1000


def answer_of(job):
    return hashlib.sha256(content(job)).hexdigest()


def hash_of(job, folder):
    """Work whose result only the job's own file gives: the phone computes the file's SHA-256."""
    source = folder / f"input_{job}"
    source.write_bytes(content(job))

    def work(phone):
        with job_folder(phone, {"input": source}, 1.0, Progress()) as run:
            output = run.run(["sh", "-c", "sleep 0.1; sha256sum input"], {}, 30)
        assert output.code == 0
        return output.stdout.split()[0].decode()

    return work


def worker(phones, jobs, results, folder, number):
    progress = Progress(folder / f"worker_{number}.log")
    for job in iter(jobs.get, None):
        results.put((job, on_a_phone(phones, hash_of(job, folder), progress)))
    results.put(None)


def test_thirty_runs_on_three_phones_one_of_which_vanishes(new_device, adb_server, tmp_path):
    """Four processes share three phones; one phone goes in the middle of its fourth run and never comes back."""
    devices = {name: new_device() for name in "xyz"}
    x, y, z = phones = online(devices, adb_server)
    devices["y"].fault(op="shell", match="sha256sum input", skip=3, after=0.05, action="vanish", secs=600)
    jobs, results = FORK.Queue(), FORK.Queue()
    workers = [FORK.Process(target=worker, args=(phones, jobs, results, tmp_path, i)) for i in range(4)]
    for process in workers:
        process.start()
    for job in [*range(30), None, None, None, None]:
        jobs.put(job)
    answers = [answer for _ in workers for answer in iter(lambda: results.get(timeout=60), None)]
    for process in workers:
        process.join(10)
    runs = [
        event for device in devices.values() for event in device.events("shell") if "sha256sum input" in event["cmd"]
    ]
    assert [process.exitcode for process in workers] == [0] * 4
    assert sorted(answers) == [(job, answer_of(job)) for job in range(30)]
    assert len(runs) == 31  # the one that was cut short, and 30
    assert "phone y (" in leases.set_aside(y)[0]
    assert leases.set_aside(x) is None and leases.set_aside(z) is None
    logs = "".join(path.read_text() for path in tmp_path.glob("worker_*.log"))
    assert logs.count("the work goes to another phone") == 1
