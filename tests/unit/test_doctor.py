"""The doctor: what it says of this machine, and of faults that users have."""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from test_phone_libraries import make_sdk

from hexport.config.devices import Device
from hexport.doctor import host
from hexport.doctor.installed import phone_qnn, phones_reached

SCRIPT = Path(__file__).parents[2] / "scripts" / "doctor.py"


def doctor(
    folder: Path, *args: str, python: tuple[str, ...] = (sys.executable,), **variables: str
) -> subprocess.CompletedProcess:
    """Without a Hub."""
    env = {name: value for name, value in os.environ.items() if name != "QNN_SDK_ROOT"}
    env |= {"HF_ENDPOINT": "http://127.0.0.1:9", **variables}
    return subprocess.run([*python, SCRIPT, *args], cwd=folder, env=env, capture_output=True, text=True)


@pytest.mark.slow
def test_a_program_is_compiled_and_run(tmp_path):
    (tmp_path / "devices.yaml").write_text("devices: {emulator: {kind: emulator, soc: SM8650}}")
    done = doctor(tmp_path, "--json")
    found = {finding["what"]: finding for finding in json.loads(done.stdout)}
    assert found["QNN"]["state"] == "good"
    assert "compiled for SM8650 and run" in found["QNN"]["found"]
    assert found["packages"]["state"] == found["Python"]["state"] == "good"
    assert found["Hub"]["state"] == "note"  # of use for hf:// alone


def test_what_is_bad_has_a_mend_and_ends_in_an_exit_code(tmp_path):
    (tmp_path / "devices.yaml").write_text("devices: {emulator: {kind: emulator, soc: SM9}}")
    done = doctor(tmp_path, QNN_SDK_ROOT=str(tmp_path))
    assert done.returncode == 1
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    bad = {words[1] for words in lines if words[0] == "bad"}
    assert {"QNN", "devices"} <= bad
    assert "unset it or name a QNN SDK" in done.stdout


def test_before_setup_only_the_standard_library_is_needed(tmp_path):
    done = doctor(tmp_path, "--before-setup", python=(sys.executable, "-S", "-E"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_another_python_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 12, 0))
    assert "make setup PYTHON=python3.11" in host.python().mend


@pytest.mark.parametrize(("version", "state"), [("2.35", "good"), ("2.40", "good"), ("2.31", "bad"), ("", "bad")])
def test_an_old_c_library(monkeypatch, version, state):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc" if version else "", version))
    assert host.glibc().state == state


def test_a_full_disk(monkeypatch, tmp_path):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 2 * host.GB))
    assert host.disk(tmp_path).mend.startswith("free 6 GB")


def test_a_package_that_the_index_lacks():
    found = host.package_index("no-such-package-of-hexport==1.0")
    assert found.state == "bad"
    assert "https_proxy" in found.mend


@pytest.mark.parametrize(("build", "state"), [("v2.37.0.250724175447", "bad"), ("v2.61.3.270101000000", "good")])
def test_the_qnn_of_a_phone_is_as_new_as_the_compiler(tmp_path, build, state):
    library = make_sdk(tmp_path) / "lib" / "aarch64-android" / "libQnnHtp.so"
    library.write_bytes(b"\x7fELF" + bytes(100) + build.encode() + bytes(100))
    found = phone_qnn(Device(name="s24", kind="adb", soc="SM8650", serial="A1", qnn_sdk=str(tmp_path)))
    assert found.state == state
    assert ("get a QNN SDK 2.49 or newer" in found.mend) == (state == "bad")


def test_phones_are_not_needed(tmp_path):
    file = tmp_path / "devices.yaml"
    file.write_text("devices: {emulator: {kind: emulator, soc: SM8650}}")
    assert [finding.state for finding in phones_reached(file)] == ["note"]
