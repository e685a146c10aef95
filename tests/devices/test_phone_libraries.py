"""What is pushed beside a program: the QNN libraries of the phone's HTP, and the upstream runner of a build."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hexport.config.devices import Device
from hexport.devices.phones.libraries import qnn_libraries, runner_files
from hexport.errors import HexportError

ANDROID, EMULATED = "aarch64-android", "x86_64-linux-clang"


def device(**keys) -> Device:
    return Device(**{"name": "s24", "kind": "adb", "soc": "SM8650", "serial": "R5C", **keys})


def make_sdk(root: Path, platform: str = ANDROID, arch: int = 75) -> Path:
    libraries = root / "lib" / platform
    libraries.mkdir(parents=True)
    for name in ("libQnnHtp.so", f"libQnnHtpV{arch}Stub.so", "libQnnHtpPrepare.so", "libQnnSystem.so", "libQnnGpu.so"):
        (libraries / name).write_text(name)
    skel = root / "lib" / f"hexagon-v{arch}" / "unsigned" / f"libQnnHtpV{arch}Skel.so"
    skel.parent.mkdir(parents=True)
    skel.write_text("skel")
    return root


@pytest.fixture(autouse=True)
def no_sdk(monkeypatch):
    monkeypatch.delenv("QNN_SDK_ROOT", raising=False)


@pytest.mark.parametrize(
    ("soc", "arch", "platform"), [("SM8650", 75, ANDROID), ("QCS9100", 73, "aarch64-oe-linux-gcc11.2")]
)
def test_a_phone_gets_the_libraries_of_its_htp(tmp_path, soc, arch, platform):
    root = make_sdk(tmp_path, platform, arch)
    libraries = qnn_libraries(device(soc=soc, qnn_sdk=str(root)), platform)
    assert sorted(libraries) == sorted(
        [
            "libQnnHtp.so",
            "libQnnHtpPrepare.so",
            "libQnnSystem.so",
            f"libQnnHtpV{arch}Skel.so",
            f"libQnnHtpV{arch}Stub.so",
        ]
    )
    assert libraries[f"libQnnHtpV{arch}Skel.so"].read_text() == "skel"
    assert all(path.is_relative_to(root) for path in libraries.values())


def test_the_sdk_of_the_device_comes_before_that_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("QNN_SDK_ROOT", str(make_sdk(tmp_path / "other")))
    monkeypatch.setenv("HOME", str(tmp_path))
    make_sdk(tmp_path / "own")
    assert qnn_libraries(device(), ANDROID)["libQnnHtp.so"].is_relative_to(tmp_path / "other")
    assert qnn_libraries(device(qnn_sdk="~/own"), ANDROID)["libQnnHtp.so"].is_relative_to(tmp_path / "own")


def test_a_missing_library_is_named_with_its_place(tmp_path):
    root = make_sdk(tmp_path, arch=73)
    with pytest.raises(HexportError, match=rf"s24: {root}/lib/{ANDROID}/libQnnHtpV75Stub.so is missing; qnn_sdk"):
        qnn_libraries(device(qnn_sdk=str(root)), ANDROID)


def test_no_sdk_is_one_line(qnn_sdk, monkeypatch):
    with pytest.raises(HexportError, match="set qnn_sdk of the device in devices"):
        qnn_libraries(device(), ANDROID)
    monkeypatch.setenv("QNN_SDK_ROOT", str(qnn_sdk))  # as use_qnn_sdk leaves it: the package's, which has none
    with pytest.raises(HexportError, match="set qnn_sdk"):
        qnn_libraries(device(), ANDROID)


def test_the_emulators_libraries_load_from_one_folder(tmp_path):
    for name, path in qnn_libraries(device(), EMULATED).items():
        (tmp_path / name).symlink_to(path)
    code = "import ctypes; ctypes.CDLL('libQnnSystem.so'); ctypes.CDLL('libQnnHtp.so')"
    environment = {**os.environ, "LD_LIBRARY_PATH": "."}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("folder", ["backends/qualcomm", "lib"])
def test_the_runner_of_a_build(tmp_path, folder):
    runner = tmp_path / "examples" / "qualcomm" / "oss_scripts" / "llama" / "qnn_llama_runner"
    backend = tmp_path / folder / "libqnn_executorch_backend.so"
    for path in (runner, backend):
        path.parent.mkdir(parents=True)
        path.touch()
    assert runner_files(device(build_path=str(tmp_path))) == {path.name: path for path in (runner, backend)}
    backend.unlink()
    with pytest.raises(HexportError, match=r"has no libqnn_executorch_backend.so .*backends/qualcomm/scripts/build.sh"):
        runner_files(device(build_path=str(tmp_path)))


@pytest.mark.parametrize("build_path", [None, "no-such-folder"])
def test_no_build_is_one_line(build_path):
    with pytest.raises(HexportError, match=r"device s24: build_path .*build.sh") as raised:
        runner_files(device(build_path=build_path))
    assert "\n" not in str(raised.value)
