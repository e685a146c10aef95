"""The doctor: what it says of this machine, and of faults that users have."""

import ast
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections import namedtuple
from pathlib import Path

import pytest
from test_phone_libraries import make_sdk

from hexport.config.devices import Device
from hexport.doctor import finding, host
from hexport.doctor.installed import phone_qnn, phones_reached

REPOSITORY = Path(__file__).parents[2]
SCRIPT = REPOSITORY / "scripts" / "doctor.py"


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


def test_what_runs_before_setup_runs_with_any_python_from_3_7_on():
    """So that an old one can be told what to install."""
    for file in (SCRIPT, host.__file__, finding.__file__):
        tree = ast.parse(Path(file).read_text(), feature_version=(3, 7))
        imported = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        modules = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imported}
        assert "__future__" in modules  # annotations are not computed
        ours = {name for name in modules if name.startswith("hexport")}
        assert ours <= {"hexport.doctor.finding", "hexport.doctor.host"}
        assert {name.partition(".")[0] for name in modules - ours} <= sys.stdlib_module_names


def test_another_python_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 12, 0))
    assert "make setup PYTHON=python3.11" in host.python().mend


def first_steps(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess:
    """`make setup` in a new checkout, which ends before it installs anything."""
    for name in ("Makefile", "pyproject.toml", "scripts"):
        source = REPOSITORY / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / name, **({"ignore": shutil.ignore_patterns("__pycache__")} if source.is_dir() else {}))
    of_make = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL"}  # this may be `make test`
    env = {name: value for name, value in os.environ.items() if name not in of_make} | variables
    done = subprocess.run(["make", "setup", *words], cwd=folder, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert not (folder / ".venv").exists()
    return done


def said(done: subprocess.CompletedProcess) -> str:
    """The one line that is not make's own."""
    (line,) = (line for line in done.stderr.splitlines() if not line.startswith("make: "))
    return line


def test_make_without_python(tmp_path):
    line = said(first_steps(tmp_path, "PYTHON=python3.99"))
    assert line.startswith("error: Python: python3.99 is missing or too old; install Python 3.11 and its venv module")


def test_make_with_an_old_python(tmp_path):
    old = tmp_path / "python2"
    old.write_text("#!/bin/sh\necho SyntaxError >&2\nexit 1\n")
    old.chmod(0o755)
    assert f"{old} is missing or too old" in said(first_steps(tmp_path, f"PYTHON={old}"))


def test_make_without_the_venv_module(tmp_path):
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "ensurepip.py").write_text("raise ImportError")
    done = first_steps(tmp_path, f"PYTHON={sys._base_executable}", PYTHONPATH=str(tmp_path / "without"))
    assert "this Python has no module ensurepip; install it (Debian, Ubuntu: python3.11-venv)" in said(done)


def test_make_with_little_memory(tmp_path):
    """That a process may have, as `ulimit -v` says."""
    limited = tmp_path / "limited"
    limited.write_text(f'#!/bin/sh\nulimit -v 3000000\nexec {sys._base_executable} "$@"\n')
    limited.chmod(0o755)
    assert "error: memory: 2.9 GB; use 4 GB or more" in said(first_steps(tmp_path, f"PYTHON={limited}"))


def test_temporary_files_on_a_small_disk(monkeypatch, tmp_path):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 1 * host.GB))
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/dev/shm")
    (found,) = host.temporary(tmp_path)
    assert (found.state, found.mend) == ("bad", "free 2 GB there, or set TMPDIR to a folder on a larger disk")
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    assert host.temporary(tmp_path) == []  # the disk is looked at already


def test_an_index_that_does_not_answer(monkeypatch):
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/simple")
    for name, value in (("PIP_CONFIG_FILE", os.devnull), ("PIP_FIND_LINKS", "")):
        monkeypatch.setenv(name, value)
    found = host.package_index("click==8.5.1")
    assert found.state == "bad"
    assert "behind a proxy set https_proxy" in found.mend


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
