"""This module downloads one file over HTTPS.

A download goes on after an interruption, is checked against a hash, and appears whole or not at all. huggingface_hub's
own downloads begin anew in another process, so they are not used.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import httpx2
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import tqdm

from hexport.checkpoints.web import open_url
from hexport.errors import HexportError
from hexport.file_hashes import sha256

TRANSIENT = (httpx2.ConnectError, httpx2.TimeoutException, httpx2.RemoteProtocolError, httpx2.ReadError)
TRIES = 5  # so many tries in a row that bring no byte end a download that has begun


def download(url: str, output: Path, digest: str, headers: dict[str, str], size: int | None = None) -> None:
    """Write the file at `url` to `output`, unless it is there already.

    `digest` is the hex SHA-256 of the file, or its hex SHA-1 as a git blob, by which the Hub knows small files. `size`
    is its size in bytes where that is known. An interrupted call leaves what it received beside `output`, and the next
    call goes on from there.

    Raises HexportError where the content does not have this digest, is larger than `size`, or does not fit on the disk,
    and where another process downloads the same file. Raises what `open_url` raises, too.
    """
    if output.is_file() and _digest(output, digest) == digest:
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(output, digest)
    with _open_partial(partial, output) as file:
        if not file.tell() or _digest(partial, digest) != digest:
            _receive(url, file, partial, headers, size)
        if (found := _digest(partial, digest)) != digest:
            partial.unlink()
            kind = "sha256" if len(digest) == 64 else "git blob id"
            raise HexportError(f"{url}: {kind} differs: expected {digest}, found {found}")
        os.replace(partial, output)


def partial_path(output: Path, digest: str) -> Path:
    """Return where the received part of a file is kept. Files of one name with other contents have other paths."""
    return output.with_name(f".{output.name}.{digest[:12]}.partial")


@contextlib.contextmanager
def _open_partial(path: Path, output: Path) -> Iterator[BinaryIO]:
    """Open a file of this user at its end, and lock it. Raises HexportError for a link, which could lead to another
    file, and where another process has locked it."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    foreign = HexportError(f"{path}: is no regular file of yours alone; remove it")
    if path.is_symlink():
        raise foreign
    with open(os.open(path, flags, 0o666), "ab") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_nlink > 1:
            raise foreign
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HexportError(f"{output}: another process is downloading it; wait for it, or end it") from None
        yield file


def _receive(url: str, file: BinaryIO, partial: Path, headers: dict[str, str], size: int | None) -> None:
    """Append the missing rest of the file at `url` to `file`, which is open at `partial`.

    Raise the last error after TRIES tries in a row that bring no byte.
    """
    tries = 0
    try:
        while True:
            before = file.tell()
            try:
                return _receive_rest(url, file, partial, headers, size)
            except TRANSIENT:
                tries = tries + 1 if file.tell() == before else 1
                if not file.tell() or tries == TRIES:
                    raise
                time.sleep(1)
    except BaseException as error:
        # With status 416, the partial file is longer than the file, so it is of no use.
        if not file.tell() or (isinstance(error, HfHubHTTPError) and error.response.status_code == 416):
            partial.unlink()
        if isinstance(error, OSError) and error.filename is None:  # a full disk: the message shall name the file
            error.filename = str(partial)
        raise


def _receive_rest(url: str, file: BinaryIO, partial: Path, headers: dict[str, str], size: int | None) -> None:
    # A compressed answer could not be continued at a given byte of the file.
    headers = {"Accept-Encoding": "identity", **headers}
    if start := file.tell():
        headers["Range"] = f"bytes={start}-"
    with open_url(url, headers) as response:
        if start and response.status_code == 200:  # the server knows no ranges and sends the whole file
            file.truncate(0)
            start = file.seek(0)
        rest = _length(response)
        total = size if size is not None else None if rest is None else start + rest
        _check_room(url, partial, 0 if total is None else total - start)
        with tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=partial.name[:40], disable=None) as bar:
            for chunk in response.iter_bytes():
                start += len(chunk)
                if size is not None and start > size:
                    file.truncate(0)
                    file.seek(0)
                    raise HexportError(f"{url}: the server sends more than the {size} bytes that the file has")
                file.write(chunk)
                bar.update(len(chunk))
    file.flush()


def _length(response: httpx2.Response) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _check_room(url: str, partial: Path, needed: int) -> None:
    if needed > (free := shutil.disk_usage(partial.parent).free):
        raise HexportError(
            f"{url}: {needed / 1e9:.1f} GB to come, but {partial.parent} has {free / 1e9:.1f} GB free; make room there"
        )


def _digest(path: Path, like: str) -> str:
    """Return the hex digest of a file, of the same kind as the digest `like`: SHA-256, or SHA-1 as a git blob."""
    if len(like) == 64:
        return sha256(path)
    # A git blob's id covers a header and then the content (git's gitformat-object page).
    header = b"blob %d\0" % path.stat().st_size
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.sha1(header)).hexdigest()
