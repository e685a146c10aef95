"""Download one file over HTTP: continued after an interruption, checked against its hash, whole or not at all."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import httpx2
from huggingface_hub import logging
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.file_download import http_get
from huggingface_hub.utils.sha import git_hash

from hexport.errors import HexportError
from hexport.provenance import sha256

logging.set_verbosity_error()  # its warnings are of retries, and of tokens that are not needed


def download(url: str, output: Path, digest: str, headers: dict[str, str]) -> None:
    """Write the file at `url` to `output`, unless it is there already.

    `digest` is the hex SHA-256 of the file, or its hex SHA-1 as a git blob, by which the Hub knows small files. What a
    call that was interrupted received stays beside `output`, and the next one goes on from there. huggingface_hub's
    own downloads begin anew in another process, so only its client is used, with its retries and progress bar.
    Raises HexportError where the content is not that of the digest, and what `http_get` raises.
    """
    if output.is_file() and _digest(output, digest) == digest:
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(output, digest)
    with open(partial, "ab") as file:
        _lock(file.fileno(), output)
        if not file.tell() or _digest(partial, digest) != digest:
            _receive(url, file, partial, headers)
        if (found := _digest(partial, digest)) != digest:
            partial.unlink()
            kind = "sha256" if len(digest) == 64 else "git blob id"
            raise HexportError(f"{url}: {kind} differs: expected {digest}, found {found}")
        os.replace(partial, output)


def partial_path(output: Path, digest: str) -> Path:
    """Where the received part of a file is kept: never that of another content of the same name."""
    return output.with_name(f".{output.name}.{digest[:12]}.partial")


def _receive(url: str, file: BinaryIO, partial: Path, headers: dict[str, str]) -> None:
    """Append what is missing of the file at `url` to `file`, which is open at `partial`."""
    try:
        # Compressed on the way, a file could not be continued at a byte of its own.
        http_get(url, file, resume_size=file.tell(), headers={"Accept-Encoding": "identity", **headers})
    except Exception as error:
        longer_than_the_file = isinstance(error, HfHubHTTPError) and error.response.status_code == 416
        if longer_than_the_file or not file.tell():  # nothing to go on from
            partial.unlink()
        raise
    file.flush()


@contextlib.contextmanager
def one_line_http_errors(uri: str) -> Iterator[None]:
    """Turn what goes wrong between this machine and a server into a HexportError."""
    try:
        yield
    except HfHubHTTPError as error:
        response = error.response
        raise HexportError(
            f"{uri}: {response.url.host} answers {response.status_code} {response.reason_phrase}; "
            "check the address, or run again later to continue"
        ) from None
    except OfflineModeIsEnabled:
        raise HexportError(f"{uri}: HF_HUB_OFFLINE is set; unset it to download") from None
    except httpx2.HTTPError as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise HexportError(f"{uri}: no connection: {reason}; check the network, and run again to continue") from None


def _digest(path: Path, like: str) -> str:
    """Digest of a file, of the kind that the digest `like` is."""
    return sha256(path) if len(like) == 64 else git_hash(path.read_bytes())


def _lock(descriptor: int, output: Path) -> None:
    """Hold the partial file to the end of this process. Raises HexportError where another one writes to it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise HexportError(f"{output}: another process is downloading it; wait for it, or end it") from None
