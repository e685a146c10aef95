"""This module keeps a cache of artifacts that users, checkouts and machines share: what one of them has made, the
others copy.

An entry is a folder with the artifacts of one job and their manifests, named by a digest of all that the job depends
on: its code, its inputs' SHA-256, its settings, and the versions of its packages. A copy counts where its bytes are
those of its manifest, and the manifest tells of the same job; any other entry is removed. Entries come by a rename, so
writers may race. Snakemake's own cache between workflows is no such thing: it hands on a damaged file without a word,
lets two writers do the work twice, and grows without a limit (tried with 9.27.1).
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

from hexport.provenance import atomic_path, manifest_path, part_beside

FOLDER, LIMIT_GB = "HEXPORT_CACHE", "HEXPORT_CACHE_GB"  # environment variables of a job
GB = 10**9
MAX_MANIFEST = 10**8  # bytes


class Unusable(Exception):
    """This error says that an entry is damaged, or is that of another job."""


@dataclass(frozen=True)
class Work:
    """Work is a job, as far as its artifacts depend on it. `script` is its path from scripts/, `code` a digest of what
    it runs, and `inputs` are SHA-256 by name."""

    script: str
    code: str
    inputs: dict[str, str]
    params: dict
    versions: dict[str, str]

    @property
    def key(self) -> str:
        """Return the name of the job's entry, as hex digits."""
        return hashlib.sha256(json.dumps(astuple(self), sort_keys=True).encode()).hexdigest()

    def made(self, manifest: dict) -> bool:
        """Return whether a manifest is that of an artifact of this job."""
        versions = manifest.get("versions", {})
        told = manifest | {"versions": {name: versions.get(name) for name in self.versions}}
        return all(told.get(key) == getattr(self, key) for key in ("code", "inputs", "params", "versions"))


@dataclass(frozen=True)
class Cache:
    """A cache has the folder of all entries as its `root`, on any file system that renames. `limit_gb` is what they may
    take together, in GB of 10^9 bytes."""

    root: Path
    limit_gb: float

    def take(self, work: Work, artifacts: Iterable[Path]) -> bool:
        """Copy a job's artifacts and their manifests from its entry. Returns whether there was one that is whole."""
        entry = self._entry(work)
        try:
            for artifact in artifacts:
                _copy_of(entry, artifact, work)
            with contextlib.suppress(PermissionError):  # another user's
                os.utime(entry)  # it was used last now
        except FileNotFoundError:
            return False
        except Unusable:
            shutil.rmtree(entry, ignore_errors=True)
            return False
        return True

    def put(self, work: Work, artifacts: Iterable[Path]) -> None:
        """Add the artifacts of a job, then remove the entries that were used least recently, down to the limit.

        What is alone larger than the limit is not added. Raises OSError where the folder cannot be written.
        """
        files = [file for artifact in artifacts for file in (artifact, manifest_path(artifact))]
        entry, size = self._entry(work), sum(file.stat().st_size for file in files)
        if size > self.limit_gb * GB:
            return
        entry.parent.mkdir(parents=True, exist_ok=True)
        part = part_beside(entry, lambda left: shutil.rmtree(left, ignore_errors=True))
        part.mkdir()
        try:
            for file in files:
                shutil.copyfile(file, part / file.name)
            part.rename(entry)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # another job was first
                raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
        self._evict(keep=entry)

    def _entry(self, work: Work) -> Path:
        return self.root / work.key[:2] / work.key

    def _evict(self, keep: Path) -> None:
        left = self.limit_gb * GB
        for _, size, entry in sorted(self._entries(), key=lambda found: (found[2] != keep, -found[0])):
            left -= size
            if left < 0:
                shutil.rmtree(entry, ignore_errors=True)

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """Yield when each entry was used last, its bytes, and its folder. Those that go meanwhile are left out."""
        for entry in self.root.glob("[0-9a-f][0-9a-f]/[0-9a-f]*"):
            with contextlib.suppress(OSError):
                yield entry.stat().st_mtime, sum(file.stat().st_size for file in entry.iterdir()), entry


def cache_of_environment() -> Cache | None:
    """Return the cache that Snakemake names to its jobs, or None where the config has none."""
    folder = os.environ.get(FOLDER)
    return Cache(Path(folder), float(os.environ[LIMIT_GB])) if folder else None


def _copy_of(entry: Path, artifact: Path, work: Work) -> None:
    """Copy an artifact and its manifest from an entry. Raises Unusable, and FileNotFoundError where there is none."""
    text = _read_manifest(entry / manifest_path(artifact).name)
    try:
        manifest = json.loads(text)
        told, of_this = manifest["sha256"], work.made(manifest)
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        raise Unusable from None
    if not of_this:
        raise Unusable
    with atomic_path(artifact) as part:
        if _copy(entry / artifact.name, part) != told:
            raise Unusable
    with atomic_path(manifest_path(artifact)) as part:
        part.write_bytes(text)


def _read_manifest(file: Path) -> bytes:
    with _opened(file) as opened:
        text = opened.read(MAX_MANIFEST + 1)
    if len(text) > MAX_MANIFEST:
        raise Unusable
    return text


def _copy(source: Path, target: Path) -> str:
    """Copy a file's bytes; return their SHA-256."""
    digest = hashlib.sha256()
    with _opened(source) as reading, open(target, "wb") as writing:
        while chunk := reading.read(2**20):
            digest.update(chunk)
            writing.write(chunk)
    return digest.hexdigest()


def _opened(file: Path):
    """Open a file to read; raise Unusable for a link. Nothing waits for a pipe."""
    try:
        return os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
    except FileNotFoundError:
        raise
    except OSError:
        raise Unusable from None
