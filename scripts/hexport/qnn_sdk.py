"""This module finds the QNN libraries: the HTP compiler and the x86-64 HTP emulator.

Without QNN_SDK_ROOT they come from the onnxruntime-qnn package, through a folder of links in the shape of Qualcomm's
SDK. With QNN_SDK_ROOT set, that SDK is used.
"""

import ctypes
import hashlib
import os
from importlib import metadata, util
from pathlib import Path

from hexport.errors import HexportError

PACKAGE = "onnxruntime-qnn"
# Later and earlier ones read the HTP device configuration at another offset than executorch writes it.
PACKAGE_VERSION = "2.5.0"
HOST_LIBRARIES = Path("lib/x86_64-linux-clang")
PRELOADED = ("libQnnSystem.so", "libQnnHtp.so")


def use_qnn_sdk() -> Path:
    """Make the QNN libraries usable by executorch in this process, beside torch, and return the SDK's root.

    Raises HexportError as `load_qnn_libraries` does.
    """
    import torch  # noqa: F401 - loaded after libQnnHtp.so, torch's libraries crash the process

    return load_qnn_libraries()


def load_qnn_libraries() -> Path:
    """Load the QNN libraries into this process and return the SDK's root. torch cannot be loaded after them.

    executorch opens the libraries by bare name. The dynamic loader reads LD_LIBRARY_PATH only when a process starts,
    but a library that is already loaded is found by its name, so they are loaded here by their full paths.
    Raises HexportError where there are no libraries, or libraries that executorch cannot drive.
    """
    given = os.environ.get("QNN_SDK_ROOT")
    root = Path(given) if given else packaged_sdk()
    missing = [name for name in PRELOADED if not (root / HOST_LIBRARIES / name).is_file()]
    if missing:
        raise HexportError(f"QNN_SDK_ROOT={root}: {HOST_LIBRARIES / missing[0]} is missing; unset it or name a QNN SDK")
    os.environ["QNN_SDK_ROOT"] = str(root)
    for name in PRELOADED:
        ctypes.CDLL(str(root / HOST_LIBRARIES / name))
    return root


def qnn_build_id() -> str:
    """Return the build id that libQnnHtp.so reports, such as v2.49.40.…"""
    root = use_qnn_sdk()
    from executorch.backends.qualcomm.python.PyQnnManagerAdaptor import GetQnnSdkBuildId

    return GetQnnSdkBuildId(str(root / HOST_LIBRARIES / "libQnnHtp.so"))


def packaged_sdk() -> Path:
    """Return the root of the SDK made of the onnxruntime-qnn package. Raises HexportError where that is not there, or
    another version is."""
    try:
        version = metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        raise HexportError(
            f"the QNN libraries are missing: run `make setup` ({PACKAGE}=={PACKAGE_VERSION}) or set QNN_SDK_ROOT"
        ) from None
    if version != PACKAGE_VERSION:
        raise HexportError(
            f"{PACKAGE} {version} cannot be driven by executorch, only {PACKAGE_VERSION}: run `make setup`"
        )
    package = Path(util.find_spec("onnxruntime_qnn").origin).parent
    return _linked_sdk(package)


def _linked_sdk(package: Path) -> Path:
    """Return a folder of links to the package's libraries and to the libc++ that they find relative to themselves."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    root = cache / "hexport" / f"qnn-{PACKAGE_VERSION}-{hashlib.sha256(str(package).encode()).hexdigest()[:12]}"
    libraries = root / HOST_LIBRARIES
    libraries.mkdir(parents=True, exist_ok=True)
    for library in package.glob("*.so"):
        _link(libraries / library.name, library)
    _link(root / "lib" / "onnxruntime_qnn.libs", package.with_name("onnxruntime_qnn.libs"))
    return root


def _link(link: Path, target: Path) -> None:
    try:
        link.symlink_to(target)
    except FileExistsError:
        if link.resolve() != target.resolve():
            raise HexportError(f"{link}: points to {link.resolve()}, not to {target}; remove it") from None
