"""This module tells what made an artifact: it writes manifests, checks whether an artifact is still what its manifest
says, and writes files that are whole or absent."""

import contextlib
import errno
import glob
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from hexport import __version__
from hexport.code_digest import SCRIPTS, code_digest, package_versions
from hexport.errors import HexportError
from hexport.file_hashes import sha256
from hexport.job_process import is_running
from hexport.regular_file import regular_file

# What `fetch` writes of a repository: a list of the files that it has put beside.
LISTING = "download.json"
KEYS = {"artifact", "sha256", "code", "inputs", "params", "versions", "stages"}


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield the name of a new, empty file beside `path`, to be written to, which replaces `path` when the block ends
    well, and is removed otherwise.

    After the block, the content is safe from a power cut: it and the name are on the disk. An OSError without a file's
    name, as of a full disk, gets that of `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = part_beside(path, lambda left: left.unlink(missing_ok=True))
    temporary.unlink(missing_ok=True)
    try:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666))
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    except OSError as error:
        error.filename = error.filename or str(path)  # a write that finds the disk full names no file
        raise
    finally:
        temporary.unlink(missing_ok=True)


def part_beside(path: Path, remove: Callable[[Path], None]) -> Path:
    """Return the name beside `path` under which this process makes it. What killed processes of this host left is
    removed."""
    prefix = f".{path.name}.{socket.gethostname()}."
    for left in path.parent.glob(f"{glob.escape(prefix)}*.part"):
        if not is_running(left.name.removeprefix(prefix).removesuffix(".part")):
            remove(left)
    return path.with_name(f"{prefix}{os.getpid()}.part")


def _flush(path: Path) -> None:
    """Have the disk write down a file's content, or a folder's names."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems have nothing to flush for a folder
            raise
    finally:
        os.close(opened)


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write sorted, indented JSON, whole or not at all. Raises ValueError on NaN or infinity, which no artifact may
    hold."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def manifest_path(artifact: Path) -> Path:
    return artifact.with_name(artifact.name + ".manifest.json")


def damage(artifact: Path) -> str | None:
    """Return how an artifact differs from its manifest, in words; None where it does not, and where it has no manifest.

    The files that `fetch` puts beside a listing have no manifests: the listing tells their SHA-256. It is damaged where
    one of them is.
    """
    try:
        manifest = json.loads(manifest_path(artifact).read_bytes())
        told = manifest["sha256"] if manifest.keys() >= KEYS else None
    except FileNotFoundError:
        return _damage_of_listed(artifact)
    except (ValueError, RecursionError, AttributeError):
        told = None
    if told is None:
        return f"{artifact}: its manifest is damaged"
    if sha256(artifact) != told:
        return f"{artifact}: its bytes are not those of its manifest"
    listed = _listed(artifact) if artifact.name == LISTING else {}
    return next(filter(None, (_damage_of_listed(artifact.parent / name) for name in listed)), None)


def is_whole(artifact: Path) -> bool:
    """Return whether an artifact and its manifest are there and agree."""
    return artifact.is_file() and manifest_path(artifact).is_file() and not damage(artifact)


def _damage_of_listed(file: Path) -> str | None:
    for folder in file.parents[:2]:
        listing = folder / LISTING
        if manifest_path(listing).is_file() and listing.is_file():
            entry = _listed(listing).get(file.relative_to(folder).as_posix())
            if entry is None:
                return None
            if not file.is_file():
                return f"{file}: it is gone"
            return None if sha256(file) == entry["sha256"] else f"{file}: its bytes are not those of {LISTING}"
    return None


def _listed(listing: Path) -> dict[str, dict]:
    """Return size and SHA-256 of each file of a listing; nothing for one that is damaged, which its own
    manifest tells."""
    try:
        return json.loads(listing.read_bytes())["files"]
    except (ValueError, RecursionError, TypeError, KeyError):
        return {}


def verified(inputs: Mapping[str, Path | None]) -> dict[str, str]:
    """Return the SHA-256 of each input of a job, by name: what `write_manifest` takes. None stands for one that the job
    does not have.

    Raises HexportError where one is missing or differs from the manifest that lies beside it.
    """
    return {name: _verified(path) for name, path in inputs.items() if path is not None}


def _verified(path: Path) -> str:
    if fault := damage(regular_file(path)):
        raise HexportError(f"{fault}; run snakemake again, which makes it anew, or else get another copy of it")
    return sha256(path)


def write_manifest(
    *artifacts: Path,
    script: str | Path,
    inputs: dict[str, str],
    params: dict,
    stages: dict[str, dict],
    versions: dict[str, str] | None = None,
    device_kind: str | None = None,
    **facts: object,
) -> None:
    """Write `<artifact>.manifest.json`: what made the artifact, from what, with which versions, time and memory.

    Several artifacts are those of one job. `script` is the path of its script. The manifest has a digest of that
    script's code, for a kind of device where one is given. `inputs` are SHA-256 by name, as `verified` gives them, and
    an entry of them is `"config.json": "9f86d081…"`. `stages` maps a stage's name to its cost
    (`progress.Progress.stages`), as in `"calibrate": {"seconds": 12.345, "peak_rss_mb": 678}`. `versions` are those of
    what is no Python package, and `facts` further top-level keys of the stage at hand.
    """
    name = os.path.relpath(script, SCRIPTS)
    own = {"hexport": __version__, "snakemake": metadata.version("snakemake")}
    manifest = {
        "code": code_digest(name, device_kind),
        "inputs": inputs,
        "params": params,
        "versions": {**own, **package_versions(name, device_kind), **(versions or {})},
        "stages": stages,
        **facts,
    }
    for artifact in artifacts:
        write_json(manifest_path(artifact), {"artifact": artifact.name, "sha256": sha256(artifact), **manifest})


@dataclass(frozen=True)
class Cost:
    """A cost is the seconds of jobs in all, and the most memory that one of them had, in MB."""

    seconds: float
    peak_mb: int


def cost_of(artifact: Path) -> Cost | None:
    """Return what the job of an artifact took; None where no manifest tells it, or a damaged one."""
    try:
        stages = json.loads(manifest_path(artifact).read_bytes())["stages"].values()
        peaks = [stage["peak_rss_mb"] for stage in stages]
        return Cost(sum(stage["seconds"] for stage in stages), max(peaks, default=0))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
