"""What tests build once, kept for all workers and for later runs as long as nothing that it depends on changes."""

import functools
import hashlib
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from filelock import FileLock

TESTS = Path(__file__).parent
WORKFLOW = ("Snakefile", "rules", "schemas", "scripts", "profiles")
DAYS = 2  # that a folder is kept which nothing uses
# Read before tests set it. With an SDK of one's own, nothing is kept: its libraries are not in the key.
OWN_SDK = os.environ.get("QNN_SDK_ROOT")


def keep(folder: Path, name: str, build: Callable[[Path], None], copy: Path) -> None:
    """Make `copy` what `build(folder)` builds; it is built where no folder of this name and key is kept in `folder`.

    `build` may depend on the workflow's code, on the installed packages, on this machine's processor, and on all
    modules of the tests except for other test files than its own.
    """
    if OWN_SDK:
        copy.mkdir(parents=True)
        return build(copy)
    place = folder / name / _key(Path(build.__code__.co_filename))
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{place}.lock"):
        if not place.exists():
            _forget_unused(folder)
            part = place.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            build(part)
            part.rename(place)
        os.utime(place)
        shutil.copytree(place, copy, symlinks=True)


def _forget_unused(folder: Path) -> None:
    for place in folder.glob("*/*"):
        if place.is_dir() and time.time() - place.stat().st_mtime > DAYS * 86400:
            shutil.rmtree(place, ignore_errors=True)
            Path(f"{place}.lock").unlink(missing_ok=True)


@functools.cache
def _key(test_file: Path) -> str:
    digest = hashlib.sha256(_machine().encode())
    roots = [TESTS.parent / name for name in WORKFLOW]
    files = {file for root in roots for file in (root.rglob("*") if root.is_dir() else [root])}
    files |= {file for file in TESTS.rglob("*.py") if not file.name.startswith("test_")} | {test_file}
    for file in sorted(files):
        if file.is_file() and file.suffix != ".pyc":
            digest.update(f"{file.relative_to(TESTS.parent)} {file.stat().st_size}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _machine() -> str:
    packages = sorted(f"{package.name} {package.version}" for package in metadata.distributions())
    processor = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    features = [line for line in processor if line.startswith(("model name", "flags"))]
    return repr((sys.version, platform.platform(), features, packages))
