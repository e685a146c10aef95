"""The link breaks, hangs or lies at each step of a job: it is noticed, the next try does the work, nothing stays."""

import os
import signal

import pytest
from loopback import AdbServer
from loopback_phones import phone_of, running, wait_for

from hexport.devices.link import adb_server as server_module
from hexport.devices.link.faults import PassingFault, PhoneFault
from hexport.devices.phones import cache as phone_cache
from hexport.devices.phones import job
from hexport.devices.phones.cache import CACHE
from hexport.devices.phones.job import RUNS, job_folder
from hexport.progress import Progress

RUN_S = 2.0


@pytest.fixture
def program(tmp_path):
    (tmp_path / "program.pte").write_bytes(os.urandom(1_000_000))
    return tmp_path / "program.pte"


@pytest.fixture
def impatient(monkeypatch):
    """A link that is silent for a second hangs."""
    monkeypatch.setattr(server_module, "IDLE_S", 1.0)
    monkeypatch.setattr(phone_cache, "COMMAND_S", 3.0)
    monkeypatch.setattr(job, "COMMAND_S", 3.0)


def answer(phone, program, result) -> None:
    """A job with all steps: push a program and a prompt, run, pull the result."""
    with job_folder(phone, {"program.pte": program}, 1.0, Progress()) as folder:
        folder.write("prompt", b"why?" * 100)
        folder.run(["sh", "-c", "cat prompt program.pte >result; sleep 0.34"], {}, RUN_S)
        folder.fetch("result", result)


def assert_done(phone, program, result) -> None:
    answer(phone, program, result)
    assert result.read_bytes() == b"why?" * 100 + program.read_bytes()
    assert_nothing_stays(phone)


def assert_nothing_stays(phone) -> None:
    wait_for(lambda: not running("sleep 0.34"))
    phone.check_online(15)
    wait_for(lambda: phone.shell(f"ls -A {RUNS}", 10).stdout == b"")


PUSH = {"op": "push", "match": CACHE, "after": 300_000}
PROMPT = {"op": "push", "match": RUNS}
RUN = {"op": "shell", "match": "sleep 0.34", "after": 0.15}
PULL = {"op": "pull", "after": 300_000}
BROKEN = {"action": "drop"}
UNPLUGGED = {"action": "vanish", "secs": 0.7}


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (PUSH | BROKEN, "the link broke while pushing program.pte, 1.0 MB"),
        (PROMPT | BROKEN, "the link broke while pushing"),
        (RUN | BROKEN, "sh: the link broke before its end"),
        (RUN | UNPLUGGED, "sh: the link broke before its end"),
        ({"op": "shell", "match": "sleep 0.34", "action": "silent"}, "sh: the link broke before its end"),
        (PULL | BROKEN, "the link broke while pulling result"),
        ({"op": "shell", "match": "mkdir", "action": "drop"}, "mkdir: the link broke before its end"),
    ],
)
def test_a_link_that_breaks_is_noticed_and_the_next_try_does_the_work(device, phone, program, tmp_path, fault, says):
    phone.shell(f"rm -rf {CACHE}", 10)
    device.fault(**fault)
    result = tmp_path / "results" / "result"
    with pytest.raises(PassingFault, match=rf"phone s24 \(.*\): {says}.*; check the cable"):
        answer(phone, program, result)
    assert not result.parent.exists() or not list(result.parent.iterdir())
    assert_nothing_stays(phone)
    assert_done(phone, program, result)


@pytest.mark.parametrize(
    ("fault", "kind", "says"),
    [
        (PUSH, PassingFault, "pushing program.pte, 1.0 MB took too long"),
        (RUN, PhoneFault, "sh: did not end within 2 s"),
        (PULL, PassingFault, "pulling result took too long"),
        ({"op": "shell", "match": "mkdir"}, PhoneFault, "mkdir: did not end within 4 s"),
    ],
)
def test_a_link_that_hangs_is_given_up(device, phone, program, tmp_path, impatient, fault, kind, says):
    phone.shell(f"rm -rf {CACHE}", 10)
    device.fault(**fault, action="hang")
    result = tmp_path / "results" / "result"
    with pytest.raises(PhoneFault, match=rf"phone s24 \(.*\): .*({says}).*; see whether the phone hangs") as caught:
        answer(phone, program, result)
    assert type(caught.value) is kind
    assert not result.parent.exists() or not list(result.parent.iterdir())
    assert_nothing_stays(phone)


def test_noise_on_stderr_is_no_fault(device, phone, program, tmp_path):
    device.fault(op="shell", match="", action="noise", count=-1)
    assert_done(phone, program, tmp_path / "result")


def test_a_shell_that_is_killed_is_no_success(device, phone):
    """Its exit code arrives, and not the end marker."""
    device.fault(op="shell", match="sleep 1.55", after=0.2, action="kill")
    with pytest.raises(PassingFault, match="ended without its end marker"):
        phone.shell("sleep 1.55", 10)
    device.fault(op="shell", match="true", action="fail", code=0)
    with pytest.raises(PassingFault, match="ended without its end marker"):
        phone.shell("true", 10)


def test_a_server_that_dies_amid_a_run_is_noticed_and_started_again(new_device, program, tmp_path, monkeypatch):
    with AdbServer(tmp_path / "adb") as server:
        phone = phone_of(new_device(), server)
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        with (
            pytest.raises(PassingFault, match="sh: the link broke before its end"),
            job_folder(phone, {"program.pte": program}, 1.0, Progress()) as folder,
            folder.start(["sh", "-c", "sleep 4324.5"], {}, 20) as process,
        ):
            wait_for(lambda: running("sleep 4324.5"))
            server.p.send_signal(signal.SIGKILL)
            server.p.wait()
            process.output()
        try:
            wait_for(lambda: not running("sleep 4324.5"))
            assert_done(phone, program, tmp_path / "result")
        finally:
            server.run("kill-server")
