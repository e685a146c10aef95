"""This module finds what a phone needs beside a program to run it: QNN libraries of an SDK, and the upstream runner of
a build.
"""

import os
from pathlib import Path

from hexport.config.devices import Device
from hexport.errors import HexportError
from hexport.qnn_sdk import HOST_LIBRARIES, packaged_sdk
from hexport.targets.socs import HTP_ARCH

CXX_RUNTIMES = "libc++*", "libunwind*"  # of the HTP's emulator; phones have their own
PACKAGED_CXX_RUNTIMES = Path("lib/onnxruntime_qnn.libs")
RUNNER = "qnn_llama_runner"
RUNNER_FOLDER = Path("examples/qualcomm/oss_scripts/llama")
BACKEND = "libqnn_executorch_backend.so"
BACKEND_FOLDERS = Path("backends/qualcomm"), Path("lib")
HOW_TO_BUILD = "build it in a checkout of executorch by backends/qualcomm/scripts/build.sh --release"


def qnn_libraries(device: Device, platform: str) -> dict[str, Path]:
    """Return the paths of the QNN libraries by their names in the folder that a program runs in.

    platform: a folder of the SDK's lib/, such as "aarch64-android", "aarch64-oe-linux-gcc11.2", or
    "x86_64-linux-clang", on which the HTP is emulated. Raises HexportError where there is no SDK, or where a library is
    missing in it.
    """
    emulated = platform == HOST_LIBRARIES.name
    root, origin = _sdk(device, emulated)
    libraries = _emulator_files(root) if emulated else _htp_files(root, platform, HTP_ARCH[device.soc])
    missing = next((path for path in libraries.values() if not path.is_file()), None)
    if missing:
        raise HexportError(
            f"device {device.name}: {missing} is missing; {origin} must name a QNN SDK with the libraries of {platform}"
        )
    return libraries


def runner_files(device: Device) -> dict[str, Path]:
    """Return the paths of the C++ runner and its backend library, by their names in the folder that a program runs in.

    Raises HexportError where build_path of the device is not set, or lacks one of them.
    """
    if device.build_path is None:
        raise HexportError(
            f"device {device.name}: build_path is not set; name the build folder (build-android) that holds {RUNNER}, "
            f"and {HOW_TO_BUILD}"
        )
    build = Path(device.build_path).expanduser()
    found = {}
    for name, folders in ((RUNNER, [RUNNER_FOLDER]), (BACKEND, BACKEND_FOLDERS)):
        places = [build / folder / name for folder in folders]
        found[name] = next(filter(Path.is_file, places), None)
        if found[name] is None:
            looked = " or ".join(str(place.parent) for place in places)
            raise HexportError(
                f"device {device.name}: build_path {build} has no {name} (looked in {looked}); {HOW_TO_BUILD}"
            )
    return found


def _sdk(device: Device, emulated: bool) -> tuple[Path, str]:
    """Return the SDK's folder, and what named it. Where nothing does, the emulator's libraries are those of a package.
    They may stand in QNN_SDK_ROOT too (`use_qnn_sdk` writes it); a phone's libraries are not among them.
    """
    if device.qnn_sdk:
        return Path(device.qnn_sdk).expanduser(), f"qnn_sdk of device {device.name}"
    given = os.environ.get("QNN_SDK_ROOT")
    if given and (emulated or not Path(given, PACKAGED_CXX_RUNTIMES).is_dir()):
        return Path(given).expanduser(), "QNN_SDK_ROOT"
    if emulated:
        return packaged_sdk(), "QNN_SDK_ROOT"
    raise HexportError(
        f"device {device.name}: no QNN SDK is named that has the phone's libraries; set qnn_sdk of the device in "
        "devices.yaml, or the environment variable QNN_SDK_ROOT"
    )


def _htp_files(root: Path, platform: str, arch: int) -> dict[str, Path]:
    names = "libQnnHtp.so", f"libQnnHtpV{arch}Stub.so", "libQnnHtpPrepare.so", "libQnnSystem.so"
    skel = f"libQnnHtpV{arch}Skel.so"  # the skeleton runs on the HTP itself
    return {name: root / "lib" / platform / name for name in names} | {
        skel: root / "lib" / f"hexagon-v{arch}" / "unsigned" / skel
    }


def _emulator_files(root: Path) -> dict[str, Path]:
    """Return the emulator's libraries. libHtpPrepare.so is none of them: it is part of the emulator's libQnnHtp.so."""
    folders = root / HOST_LIBRARIES, root / PACKAGED_CXX_RUNTIMES
    runtimes = [path for folder in folders for pattern in CXX_RUNTIMES for path in sorted(folder.glob(pattern))]
    names = "libQnnHtp.so", "libQnnSystem.so"
    return {name: root / HOST_LIBRARIES / name for name in names} | {path.name: path for path in runtimes}
