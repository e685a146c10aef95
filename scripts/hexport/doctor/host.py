"""This module looks at this machine before anything is installed: Python, glibc, processor, memory, disk, the package
index.

It takes the standard library alone, and any Python from 3.7 on.
"""

from __future__ import annotations

import importlib
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from hexport.doctor.finding import NOTE, Finding, judged

GB = 2**30
PYTHON = (3, 11)
GLIBC = (2, 35)
MEMORY_GB = 4  # of 2^30 bytes; the demo takes 2.9 GB
TEMPORARY_GB = 2  # pip keeps all packages there, packed, until it installs them
DISK_GB = 6  # the packages 2.4 GB, as much again while pip unpacks them, the demo's artifacts 0.7 GB
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
INDEX_S = 15  # seconds


def look_at_host(folder: Path) -> list[Finding]:
    """Return findings on the machine, and on the disks that hold `folder` and temporary files."""
    return [python(), venv(), system(), glibc(), processor(), memory(), disk(folder), *temporary(folder)]


def python() -> Finding:
    """Look whether this is the Python that hexport needs."""
    found, wanted = sys.version_info[:2], ".".join(map(str, PYTHON))
    mend = f"install Python {wanted} and its venv module, and name it: make setup PYTHON=python{wanted}"
    return judged("Python", found == PYTHON, platform.python_version(), mend)


def venv() -> Finding:
    """Debian's Python comes without what a virtual environment is made with."""
    missing = None
    for module in ("venv", "ensurepip"):
        try:
            importlib.import_module(module)
        except ImportError:
            missing = module
    mend = f"install it (Debian, Ubuntu: python{sys.version_info[0]}.{sys.version_info[1]}-venv)"
    return judged("venv", missing is None, f"this Python has no module {missing}" if missing else "there", mend)


def system() -> Finding:
    """Look whether this is Linux on x86-64."""
    system, kind = platform.system(), platform.machine()
    mend = "use Linux on x86-64: the HTP compiler and the emulator are built for nothing else"
    return judged("system", (system, kind) == ("Linux", "x86_64"), f"{system} on {kind}", mend)


def glibc() -> Finding:
    """Look whether the C library is a glibc that is new enough for the packages."""
    name, version = platform.libc_ver()
    parts = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    wanted = ".".join(map(str, GLIBC))
    mend = f"use a system with glibc {wanted} or newer (Ubuntu 22.04, Debian 12, Fedora 36), or a container of one"
    return judged("glibc", name == "glibc" and parts >= GLIBC, f"{name or 'another C library'} {version}".strip(), mend)


def processor() -> Finding:
    """Look whether the processor has AVX2. torch computes without it too, several times as slowly."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        flags = []
    found = f"{len(os.sched_getaffinity(0))} cores, {'with' if 'avx2' in flags else 'without'} AVX2"
    return judged("processor", "avx2" in flags, found, "calibration and emulation will be slow; use a newer one", NOTE)


def memory() -> Finding:
    """What the machine has, or less where a container or a process may not use all of it."""
    size, limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        size = min(size, limit)
    for file in CGROUP_LIMITS:
        try:
            limit = Path(file).read_text().strip()
        except OSError:
            continue
        size = min(size, int(limit)) if limit.isdigit() else size
    mend = f"use {MEMORY_GB} GB or more: the demo takes 2.9 GB, and docs/scale.md says what each model takes"
    return judged("memory", size >= MEMORY_GB * GB, f"{size / GB:.1f} GB", mend)


def disk(folder: Path) -> Finding:
    """Look at the free space. Less of it will do where the packages are installed already."""
    free = shutil.disk_usage(folder).free
    wanted = DISK_GB if not (folder / ".venv" / ".installed").exists() else 1
    mend = f"free {wanted} GB, or clone hexport to a larger disk"
    return judged("disk", free >= wanted * GB, f"{free / GB:.1f} GB free in {folder}", mend)


def temporary(folder: Path) -> list[Finding]:
    """Whether pip has room for temporary files, where these are on another disk than `folder`; nothing elsewhere."""
    place = Path(tempfile.gettempdir())
    if place.stat().st_dev == folder.stat().st_dev or (folder / ".venv" / ".installed").exists():
        return []
    free = shutil.disk_usage(place).free
    mend = f"free {TEMPORARY_GB} GB there, or set TMPDIR to a folder on a larger disk"
    return [judged("temporary files", free >= TEMPORARY_GB * GB, f"{free / GB:.1f} GB free in {place}", mend)]


def package_index(package: str) -> Finding:
    """Look whether pip can download a package, with the settings that pip has on this machine."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--retries", "0", "--timeout", "10"]
    mend = "check the network; behind a proxy set https_proxy, with a mirror PIP_INDEX_URL"
    what = "package index"
    try:
        folder = Path(tempfile.gettempdir()) / f"hexport-doctor-{os.getpid()}"
        done = subprocess.run(
            [*command, "--dest", str(folder), package], capture_output=True, text=True, timeout=INDEX_S
        )
    except subprocess.TimeoutExpired:
        return judged(what, False, f"no answer in {INDEX_S} s", mend)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if "No module named pip" in done.stderr:
        return judged(what, False, "this Python has no pip", "install pip and venv (Debian: python3.11-venv)")
    said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    return judged(what, done.returncode == 0, said[0] if said else f"pip finds {package}", mend)
