"""scripts/devices.py: every device as it is, and what to do about each problem."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from loopback_phones import phone_of, wait_for
from test_phone_libraries import make_sdk

import hexport
from hexport.config.devices import Device
from hexport.devices.link.adb import Phone
from hexport.devices.phones import facts as phone_facts
from hexport.devices.phones import inventory, leases
from hexport.devices.phones.inventory import take_inventory

SCRIPT = Path(hexport.__file__).parents[1] / "devices.py"
LIBRARY = "backends/qualcomm/libqnn_executorch_backend.so"
RUNNER = "examples/qualcomm/oss_scripts/llama/qnn_llama_runner"
EMULATOR = {"kind": "emulator", "soc": "SM8650"}


@pytest.fixture
def keys(tmp_path, adb_server) -> dict:
    """Of a phone that lacks nothing, but for its serial."""
    for name in (LIBRARY, RUNNER):
        path = tmp_path / "build-android" / name
        path.parent.mkdir(parents=True)
        path.touch()
    return {
        "kind": "adb",
        "soc": "SM8650",
        "adb_server": {"host": "127.0.0.1", "port": adb_server.port},
        "build_path": str(tmp_path / "build-android"),
        "qnn_sdk": str(make_sdk(tmp_path / "sdk")),
    }


@pytest.fixture
def table(tmp_path):
    """Run the script; its exit code, the table's rows by device, and the lines below it or on stderr."""

    def run(devices: dict, **environment) -> tuple[int, dict[str, str], list[str]]:
        file = tmp_path / "devices.yaml"
        file.write_text(yaml.safe_dump({"devices": devices}))
        command = [sys.executable, str(SCRIPT), "--devices", str(file)]
        environment = {**os.environ, **environment}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
        assert "Traceback" not in done.stderr
        text, _, problems = done.stdout.partition("\n\n")
        rows = {line.split()[0]: line for line in text.splitlines()[1:]}
        return done.returncode, rows, [*problems.splitlines(), *done.stderr.splitlines()]

    return run


def test_devices_without_problems(table, keys, phone):
    code, rows, problems = table({"emulator": EMULATOR, "s24": {**keys, "serial": phone.serial}})
    assert (code, problems) == (0, [])
    assert rows["emulator"].split() == ["emulator", "emulator", "ready", "SM8650"]
    words = rows["s24"].split()
    assert words[:6] == ["s24", "adb", "online", "SM8650", "SM8650", "15"]
    assert words[-2:] == ["GB", "1.0.41"]


def test_each_state_has_its_line(table, keys, phone, adb_server, new_device):
    others = {name: new_device("--mode", name) for name in ("unauthorized", "offline")}
    for device in others.values():
        subprocess.Popen([adb_server.adb, "connect", device.address], env=adb_server.env, stdout=subprocess.DEVNULL)
    wait_for(lambda: phone_of(others["unauthorized"], adb_server).state() == "unauthorized")
    devices = {name: {**keys, "serial": device.address} for name, device in others.items()}
    code, rows, problems = table(devices | {"gone": {**keys, "serial": "R5CX10ABCDE"}})
    assert code == 1
    assert [rows[name].split()[2] for name in ("unauthorized", "gone")] == ["unauthorised", "missing"]
    assert rows["offline"].split()[2] in ("offline", "missing")  # as adb has it: never connected
    lines = dict(line.split(": ", 1) for line in reversed(problems))
    assert "tap Allow" in lines["unauthorized"]
    assert "cable" in lines["gone"]
    assert "offline" in lines["offline"] or "missing" in lines["offline"]
    assert [line for line in problems if "which no device names; correct the serial" in line and phone.serial in line]


def test_what_a_phone_says_is_compared_with_what_is_needed(table, keys, adb_server, new_device):
    device = new_device("--soc", "SM8550-AB", "--disk-size", "64m")
    entry = {**keys, "serial": device.address, "qnn_sdk": "/nowhere"}
    del entry["build_path"]
    code, rows, problems = table({"s24": entry})
    assert code == 1
    assert "SM8550-AB" in rows["s24"]
    assert [line.partition(":")[0] for line in problems] == ["s24"] * 4
    for words in ("set soc: SM8550", "only 0.1 GB free", "build_path is not set", "/nowhere"):
        assert sum(words in line for line in problems) == 1


def test_the_runner_hexport_needs_a_python_on_the_phone_and_no_build(table, keys, phone):
    entry = {"kind": "adb", "soc": "SM8650", "serial": phone.serial, "adb_server": keys["adb_server"]}
    code, _, problems = table({"board": {**entry, "runner": "hexport", "python": "it's python"}})
    assert code == 1
    assert problems == ["board: it has no it's python; install Python and executorch there, or set python"]
    assert table({"board": {**entry, "runner": "hexport"}})[0] == 0


def test_phones_of_a_server_that_does_not_answer_have_one_line(table, keys):
    server = {"host": "127.0.0.2", "port": 9}
    devices = {name: {**keys, "serial": name, "adb_server": server} for name in ("a", "b")}
    code, rows, problems = table(devices)
    assert code == 1
    assert [rows[name].split()[2] for name in devices] == ["unknown", "unknown"]
    assert len(problems) == 1
    assert problems[0].startswith("a, b: adb server 127.0.0.2:9: does not answer; start it there")


def test_an_emulator_without_libraries_is_not_ready(table, tmp_path):
    code, rows, problems = table({"emulator": EMULATOR}, QNN_SDK_ROOT=str(tmp_path))
    assert code == 1
    assert "not ready" in rows["emulator"]
    assert len(problems) == 1
    assert str(tmp_path) in problems[0]


def test_faults_of_the_file_are_said_and_no_phone_is_asked(table):
    code, rows, problems = table({"s24": {"kind": "adb", "soc": "SM8640"}})
    assert (code, rows) == (1, {})
    assert len(problems) == 2
    assert "devices.s24.soc: unknown SoC 'SM8640'; did you mean SM8" in problems[0]
    assert "devices.s24.serial: missing" in problems[1]


def test_phones_in_use_and_set_aside(keys, phone, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    device = Device(name="s24", serial=phone.serial, **keys)
    with leases.lease(Phone.of(device)) as lease:
        (entry,) = take_inventory([device])
        assert f"process {os.getpid()}" in entry.used_by
        assert entry.problems == []
        lease.set_aside("phone s24 (R5C): did not end within 3 s")
    (entry,) = take_inventory([device])
    assert entry.used_by == "set aside"
    assert len(entry.problems) == 1
    assert "did not end within 3 s" in entry.problems[0]


def test_a_phone_that_hangs_does_not_hold_up_the_others(keys, phone, device, adb_server, new_device, monkeypatch):
    for module in (inventory, phone_facts):
        monkeypatch.setattr(module, "SECONDS", 1.0)
    hung = new_device()
    phone_of(hung, adb_server).check_online(10)
    hung.fault(op="shell", action="hang", count=-1)
    devices = [
        Device(name=name, serial=serial, **keys) for name, serial in (("s23", hung.address), ("s24", phone.serial))
    ]
    start = time.monotonic()
    s23, s24 = take_inventory(devices)
    assert time.monotonic() - start < 5
    assert (s23.state, s24.state) == ("no answer", "online")
    assert "did not end within 1 s" in s23.problems[0]
    assert s24.problems == []
