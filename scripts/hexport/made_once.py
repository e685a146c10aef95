"""This module lets work be done once, whoever wants it: a job waits for another one that makes the same, and takes its
result."""

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from hexport.artifact_cache import Work, cache_of_environment
from hexport.code_digest import SCRIPTS, code_digest, package_versions
from hexport.errors import HexportError
from hexport.progress import Progress
from hexport.provenance import damage, manifest_path

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def made_once(
    artifacts: Sequence[Path],
    script: str | Path,
    inputs: dict[str, str],
    params: dict,
    progress: Progress,
    cached: bool = True,
) -> Iterator[bool]:
    """Yield whether the artifacts of a job, and their manifests, are there already; else the block makes them.

    They are where another job, of whatever Snakemake, made them in this place while this one waited for it; or where
    the cache, if there is one, has them. What the block has made goes to the cache. `script`, `inputs` and `params` are
    as `write_manifest` takes them. `cached` is false where these do not tell all that the artifacts follow from.
    """
    name = os.path.relpath(script, SCRIPTS)
    work = Work(name, code_digest(name), inputs, params, package_versions(name))
    cache = cache_of_environment() if cached else None
    with contextlib.ExitStack() as locks:
        waited = locks.enter_context(locked(artifacts[0].with_name(f".{artifacts[0].name}.lock"), progress))
        if waited and _are_of(work, artifacts):
            progress.say(f"{artifacts[0].name}: another job has made it meanwhile")
            yield True
            return
        if cache is not None:
            locks.enter_context(locked(cache.root / "locks" / work.key, progress))
            if cache.take(work, artifacts):
                progress.say(f"{artifacts[0].name}: taken from the cache {cache.root}")
                yield True
                return
        yield False
        if cache is not None:
            try:
                cache.put(work, artifacts)
            except OSError as error:
                progress.say(f"note: {cache.root}: {error.strerror}, so {artifacts[0].name} is not shared")


@contextlib.contextmanager
def locked(path: Path, progress: Progress) -> Iterator[bool]:
    """Hold the lock of a file, which is there as long as somebody does. Yield whether another job had it before.

    The kernel frees it where a job ends, however it does. On a file system without locks, the job works all the same.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    waited, opened = False, _opened(path)
    try:
        while True:
            waited |= _lock(opened, path, progress)
            if _is_file(path, opened):
                break
            os.close(opened)  # who had it has removed the file
            opened = _opened(path)
        try:
            yield waited
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(opened)


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


def _lock(opened: int, path: Path, progress: Progress) -> bool:
    """Lock an open file. Return whether another job had the lock before."""
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        progress.say(f"another job makes the same; waiting for it ({path})")
        fcntl.flock(opened, fcntl.LOCK_EX)
        return True
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        progress.say(f"note: {path.parent}: {error.strerror}: a file system without locks; another job may do the same")
    return False


def _is_file(path: Path, opened: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(opened))
    except FileNotFoundError:
        return False


def _are_of(work: Work, artifacts: Sequence[Path]) -> bool:
    """Return whether artifacts are those of a job, and whole."""
    for artifact in artifacts:
        try:
            if damage(artifact) or not work.made(json.loads(manifest_path(artifact).read_bytes())):
                return False
        except (OSError, HexportError):  # a file that is not there
            return False
    return True
