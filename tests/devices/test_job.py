"""A job's folder on a phone: files and programs in it are what they should be, and nothing of it stays."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from loopback_phones import phone_of, running, wait_for

from hexport.devices.link.faults import PassingFault, PhoneFault
from hexport.devices.phones.cache import FOLDER
from hexport.devices.phones.job import RUNS, job_folder
from hexport.errors import HexportError
from hexport.file_hashes import sha256
from hexport.progress import Progress

HOST = re.sub(r"[^A-Za-z0-9_]", "_", socket.gethostname())
NOBODY = 99999999  # the id of no process: it is beyond Linux's limit

NAMES = [
    "it's",
    '"quoted"',
    "$(touch x)",
    "two\nlines",
    "日本語 é",
    "`touch x`",
    "-rf",
    "*",
    "a, b;c&d|e>f",
    "\\n",
    "~",
    "#",
]
NAMES.append("n" * 255)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "input").write_text("an input\n")
    return {"input": tmp_path / "input"}


def left_over(phone) -> str:
    return phone.shell(f"ls -A {RUNS}", 10).text()


def test_any_name_arrives_as_it_is(phone, files):
    with job_folder(phone, dict.fromkeys(NAMES, files["input"]), 1.0, Progress()) as folder:
        listing = folder.run(["find", ".", "-mindepth", "1", "-print0"], {}, 10).stdout
        assert sorted(listing.decode().split("\0")[:-1]) == sorted(f"./{name}" for name in NAMES)
        assert folder.run(["cat", "--", *NAMES], {}, 10).stdout == b"an input\n" * len(NAMES)
        for name in NAMES[:5]:
            folder.write(name, name.encode())
            assert folder.read(name) == name.encode()


def test_words_and_variables_arrive_as_they_are(phone):
    script = 'printf "%s\\0" "$@" "$VALUE"'
    with job_folder(phone, {}, 1.0, Progress()) as folder:
        for value in NAMES[:5]:
            output = folder.run(["sh", "-c", script, "sh", *NAMES], {"VALUE": value}, 10)
            assert output.stdout.decode().split("\0") == [*NAMES, value, ""]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc/passwd", "a\0b", "x" * 256, "\udcff"])
def test_a_name_that_is_none_is_refused(phone, files, name):
    with pytest.raises(HexportError, match="rename the file"), job_folder(phone, {name: files["input"]}, 1, Progress()):
        pass
    with job_folder(phone, {}, 1.0, Progress()) as folder:
        for attempt in (lambda: folder.write(name, b""), lambda: folder.read(name)):
            with pytest.raises(HexportError, match="rename the file"):
                attempt()
    assert left_over(phone) == ""


def test_a_program_runs_in_its_folder_with_its_files_and_its_environment(phone, files):
    with job_folder(phone, files, 1.0, Progress()) as folder:
        folder.write("more", b"more\n")
        output = folder.run(["sh", "-c", "cat; cat input more; echo $COLOUR; pwd; exit 5"], {"COLOUR": "red"}, 10)
        assert output.stdout.decode().splitlines()[:3] == ["an input", "more", "red"]
        assert output.text().endswith(f"{folder.path}\n")
        assert output.code == 5
        with folder.start(["sh", "-c", "read -r word; echo $word back"], {}, 10) as process:
            process.write(b"hello\n")
            assert list(process.lines()) == [b"hello back"]
            assert process.output().code == 0
    assert left_over(phone) == ""


def test_results_are_fetched_whole(phone, tmp_path):
    with job_folder(phone, {}, 1.0, Progress()) as folder:
        folder.run(["sh", "-c", "head -c 1500000 /dev/urandom >result; : >empty"], {}, 10)
        digest = folder.run(["sha256sum", "result"], {}, 10).text().split()[0]
        folder.fetch("result", tmp_path / "deep" / "result")
        assert sha256(tmp_path / "deep" / "result") == digest
        assert folder.read("empty") == b""


def test_a_result_that_is_missing_is_said(phone, tmp_path):
    says = r"phone s24 \(.*\): the program left no file 'result'"
    with job_folder(phone, {}, 1.0, Progress()) as folder, pytest.raises(HexportError, match=says) as caught:
        folder.fetch("result", tmp_path / "result")
    assert not isinstance(caught.value, PhoneFault) and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("action", ["corrupt", "truncate"])
def test_what_is_damaged_on_its_way_is_no_result_and_no_input(device, phone, tmp_path, action):
    with job_folder(phone, {}, 1.0, Progress()) as folder:
        device.fault(op="push", match="runs", after=1, action=action)
        with pytest.raises(PassingFault, match="'prompt' arrived damaged"):
            folder.write("prompt", b"a prompt")
        folder.write("prompt", b"a prompt")
        device.fault(op="pull", after=1, action=action)
        with pytest.raises(PassingFault, match="'prompt' arrived damaged"):
            folder.fetch("prompt", tmp_path / "prompt")
        assert list(tmp_path.iterdir()) == []
        folder.fetch("prompt", tmp_path / "prompt")
    assert (tmp_path / "prompt").read_bytes() == b"a prompt"


@pytest.mark.parametrize(
    ("program", "fault", "says"),
    [
        ("kill -ABRT $$", PhoneFault, "sh: crashed with SIGABRT"),
        ("kill -KILL $$", PhoneFault, "sh: killed by SIGKILL, as Android does where memory is short: out of luck"),
        ("sleep 4321.5", PhoneFault, "sh: did not end within 1 s, last it said: out of luck; .* raise timeout"),
    ],
)
def test_a_run_that_does_not_end_well_is_said_and_leaves_nothing(phone, program, fault, says):
    with (
        pytest.raises(HexportError, match=rf"phone s24 \(.*\): {says}") as caught,
        job_folder(phone, {}, 1.0, Progress()) as folder,
    ):
        folder.run(["sh", "-c", f"echo out of luck >&2; {program}; echo unreachable"], {}, 1)
    assert type(caught.value) is fault
    assert left_over(phone) == "" and not running("sleep 4321.5")


def test_a_process_that_left_its_session_is_killed_at_the_end(phone):
    with job_folder(phone, {}, 1.0, Progress()) as folder:
        folder.run(
            ["sh", "-c", "mkdir deep; cd deep; setsid sleep 4321.25 </dev/null >/dev/null 2>&1 & sleep 0.2"], {}, 10
        )
        assert running("sleep 4321.25")
    assert not running("sleep 4321.25") and left_over(phone) == ""


def test_what_a_killed_job_of_this_host_left_goes_and_nothing_else(phone):
    ours, other = f"{RUNS}/{HOST}-{NOBODY}-3", f"{RUNS}/{HOST}x-{NOBODY}-3"
    phone.shell(f"mkdir -p {ours} {other}; echo precious | tee {FOLDER}/stray >/data/local/tmp/stray", 10)
    for seconds, place in (("4322.1", ours), ("4322.2", other), ("4322.3", "/data/local/tmp")):
        phone.shell(f"cd {place}; setsid sleep {seconds} </dev/null >/dev/null 2>&1 & sleep 0.2", 10)
    try:
        assert len(running("sleep 4322.")) == 3
        with job_folder(phone, {}, 1.0, Progress()):
            assert not running("sleep 4322.1")
            assert phone.shell(f"ls {ours}", 10).code != 0
        assert running("sleep 4322.2") and running("sleep 4322.3")
        assert phone.shell(f"cat {FOLDER}/stray /data/local/tmp/stray", 10).stdout == b"precious\nprecious\n"
        assert left_over(phone) == f"{HOST}x-{NOBODY}-3\n"
    finally:
        phone.shell(f"rm -r {other} {FOLDER}/stray /data/local/tmp/stray", 10)
        for process in running("sleep 4322."):
            os.kill(process, signal.SIGKILL)


def test_a_job_whose_process_is_killed_leaves_nothing_on_the_phone(phone, device, adb_server):
    """kill -9 of hexport: adb takes the shell away, and with it all that the job had there."""
    script = f"""
from pathlib import Path
from hexport.devices.link.adb import Phone
from hexport.devices.phones.job import job_folder
from hexport.progress import Progress
with job_folder(Phone("s24", {device.address!r}, "127.0.0.1", {adb_server.port}), {{}}, 1.0, Progress()) as folder:
    folder.run(["sleep", "4323.5"], {{}}, 100)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    job = subprocess.Popen([sys.executable, "-c", script], env=environment)
    wait_for(lambda: running("sleep 4323.5"))
    job.kill()
    job.wait()
    wait_for(lambda: not running("sleep 4323.5") and left_over(phone) == "")


def test_a_job_whose_link_broke_between_its_steps_has_no_folder_any_more(device, phone, tmp_path):
    """The phone has cleared it, and may be back before the next step: that must not look like a bad program."""
    steps = [
        lambda folder: folder.write("prompt", b"why?"),
        lambda folder: folder.run(["cat", "prompt"], {}, 10),
        lambda folder: folder.fetch("prompt", tmp_path / "prompt"),
    ]
    for step in steps:
        with (
            pytest.raises(PassingFault, match=r"the link broke|offline|missing"),
            job_folder(phone, {}, 1.0, Progress()) as folder,
        ):
            folder.write("prompt", b"why?")
            device.control({"op": "drop"})
            phone.check_online(15)
            step(folder)
    phone.check_online(15)
    wait_for(lambda: left_over(phone) == "")


def test_logcat_is_that_of_the_job_and_bounded(new_device, adb_server):
    device = new_device()
    phone = phone_of(device, adb_server)
    with job_folder(phone, {}, 1.0, Progress()) as folder:
        assert folder.logcat() == ""  # a Linux board has none
        logcat = Path(device.host_path("/system/bin/logcat"))
        logcat.write_text('#!/bin/sh\nyes "much" | head -n 100000\nprintf "%s." "$@"\n')
        logcat.chmod(0o755)
        log = folder.logcat()
    assert len(log) == 200_000
    assert re.search(r"much\n-d\.-t\.\d\d-\d\d \d\d:\d\d:\d\d\.000\.$", log)


def test_only_what_a_process_left_that_is_no_more_is_cleared(phone):
    """Another process of this host may use the phone under another serial number."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    with job_folder(phone, {}, 1.0, Progress()) as folder:
        name = folder.path.rsplit("/", 1)[-1]
        host = name.split("-")[0]
    left = {f"{host}-{ended.pid}-0": False, f"{host}-{os.getppid()}-0": True, f"other-{ended.pid}-0": True}
    phone.shell(f"cd {RUNS} && mkdir {' '.join(left)}", 10)
    with job_folder(phone, {}, 1.0, Progress()):
        found = phone.shell(f"ls {RUNS}", 10).text().split()
    assert {name: name in found for name in left} == left
    phone.shell(f"cd {RUNS} && rmdir {' '.join(name for name, stays in left.items() if stays)}", 10)
