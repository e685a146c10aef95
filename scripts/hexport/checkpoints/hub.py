"""This module gets a checkpoint or a tokenizer from the Hugging Face Hub: hf://org/repo@revision."""

import contextlib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import quote

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, validate_repo_id

from hexport.checkpoints.download import download, partial_path
from hexport.checkpoints.uri import HubFiles, did_you_mean
from hexport.checkpoints.web import one_line_http_errors, read_url
from hexport.errors import HexportError
from hexport.file_hashes import sha256
from hexport.json_file import parse_json
from hexport.provenance import write_json

MAX_LISTING = 16 << 20  # bytes of the Hub's answer, which lists a repository: some 100,000 files
COMMIT, SHA256 = re.compile("[0-9a-f]{40}"), re.compile("[0-9a-f]{64}")
# A repository may hold the same weights in several formats. The first of these sets that it has is taken.
WEIGHTS = (
    ("config.json", "model.safetensors"),
    ("config.json", "model.safetensors.index.json", "model-*-of-*.safetensors"),
    ("config.json", "pytorch_model.bin"),
    ("config.json", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"),
    ("params.json", "consolidated.*.pth"),
)
# What hexport.tokenizers.files finds in a folder. That module is not imported here, as each change of it would then
# fetch everything anew.
TOKENIZER = (
    "tokenizer.json",
    "tokenizer.model",
    "original/tokenizer.model",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "config.json",
)


@dataclass(frozen=True)
class HubFile:
    """An instance is a file of a repository.

    `name` is its path in the repository and `size` its size in bytes. `digest` is the hex SHA-256 of a large file, and
    the hex id of the git blob of a small one.
    """

    name: str
    size: int
    digest: str


def fetch_hub_files(uri: str, source: HubFiles, weights: bool, listing: Path, say: Callable[[str], None]) -> str:
    """Put the needed files into the listing's folder, then write the listing, and return the commit.

    The listing is JSON: `{"uri": "hf://…", "commit": "<40 hex digits>", "files": {"config.json": {"size": 861,
    "sha256": "…"}}}`. A file that is there already is kept if it is the commit's. Files of another commit are removed.

    Raises HexportError where the repository, the revision or a needed file does not exist, where the user may not have
    it, and where the answer does not have the form of the Hub's.
    """
    folder = listing.parent
    with one_line_http_errors(uri), _one_line_hub_errors(uri, source):
        commit, files = _list_files(uri, source)
        taken = [files[name] for name in needed_files(uri, source, list(files), weights)]
        for file in taken:
            _check_name(uri, file.name, listing)
        # Weights stay where only the tokenizer is wanted, as a model of this checkpoint may be added later.
        there = folder.rglob("*") if weights else map(folder.joinpath, TOKENIZER)
        _remove_others(there, listing, taken)
        for i, file in enumerate(taken):
            say(f"fetch: {file.name}, file {i + 1} of {len(taken)}, {file.size / 1e6:.1f} MB")
            url = f"{constants.ENDPOINT}/{source.repo}/resolve/{commit}/{quote(file.name)}"
            download(url, folder / file.name, file.digest, build_hf_headers(), file.size)
    described = {file.name: {"size": file.size, "sha256": _sha256(file, folder)} for file in taken}
    write_json(listing, {"uri": uri, "commit": commit, "files": described})
    return commit


def _list_files(uri: str, source: HubFiles) -> tuple[str, dict[str, HubFile]]:
    """Return the commit of a revision, and its files by name. Raises HexportError for an answer of another form.

    The form is that of GET /api/models/{repo}/revision/{revision} (https://huggingface.co/docs/hub/api).
    """
    validate_repo_id(source.repo)
    address = f"{constants.ENDPOINT}/api/models/{source.repo}/revision/{quote(source.revision, safe='')}?blobs=true"
    answer = parse_json(
        read_url(address, build_hf_headers(), MAX_LISTING), f"{uri}: the answer of {constants.ENDPOINT}"
    )
    try:
        files, commit = [_hub_file(entry) for entry in answer["siblings"]], answer["sha"]
        if not COMMIT.fullmatch(commit):
            raise ValueError
    except (TypeError, ValueError, KeyError, AttributeError):
        raise HexportError(
            f"{uri}: {constants.ENDPOINT} does not answer as the Hugging Face Hub does; check HF_ENDPOINT"
        ) from None
    return commit, {file.name: file for file in files}


def _hub_file(entry: dict) -> HubFile:
    """Return one entry of the Hub's answer. Raises TypeError, ValueError, KeyError or AttributeError for what describes
    no file."""
    name, lfs = entry["rfilename"], entry.get("lfs")
    if lfs is not None:
        size, digest = lfs["size"], SHA256.fullmatch(lfs["sha256"])
    else:
        size, digest = entry["size"], COMMIT.fullmatch(entry["blobId"])
    if type(name) is not str or type(size) is not int or size < 0 or not digest:
        raise ValueError
    return HubFile(name, size, digest[0])


def _check_name(uri: str, name: str, listing: Path) -> None:
    """Raise HexportError for a name that leads out of the listing's folder, or to the listing itself."""
    parts = name.split("/")
    if {"", ".", ".."} & set(parts) or not name.isprintable() or "\\" in name or parts[0].startswith(listing.name):
        raise HexportError(f"{uri}: {constants.ENDPOINT} names a file {name!r}, which is not written")


def needed_files(uri: str, source: HubFiles, names: list[str], weights: bool) -> list[str]:
    """Return those names of a repository's files that a checkpoint or, without `weights`, a tokenizer is read from.

    Raises HexportError where the repository lacks them.
    """
    if source.file is not None:
        if source.file not in names:
            raise HexportError(f"{uri}: {source.repo} has no {source.file}{did_you_mean(source.file, names)}")
        return [source.file]
    tokenizer = [name for name in TOKENIZER if name in names]
    if not weights:
        if not any(name.endswith(("tokenizer.json", "tokenizer.model")) for name in tokenizer):
            raise HexportError(f"{uri}: {source.repo} has no tokenizer.json or tokenizer.model; name another tokenizer")
        return tokenizer
    for patterns in WEIGHTS:
        # Weights lie in the top folder. The test for a slash is needed, as fnmatch's * matches slashes too.
        found = [[name for name in names if "/" not in name and fnmatchcase(name, pattern)] for pattern in patterns]
        if all(found):
            return list(dict.fromkeys([*itertools.chain(*found), *tokenizer]))
    raise HexportError(
        f"{uri}: {source.repo} has no config.json with model.safetensors or pytorch_model.bin, and no params.json with "
        "consolidated.*.pth; to take one file, add its path: hf://org/repo@revision/path"
    )


def _sha256(file: HubFile, folder: Path) -> str:
    """Return the hex SHA-256 of a downloaded file. `download` has already compared a large file with it."""
    return file.digest if SHA256.fullmatch(file.digest) else sha256(folder / file.name)


def _remove_others(there: Iterable[Path], listing: Path, files: list[HubFile]) -> None:
    """Remove the files of an earlier commit, which would be taken for parts of this one."""
    paths = {listing.parent / file.name: file.digest for file in files}
    kept = {*paths, *(partial_path(path, digest) for path, digest in paths.items())}
    for path in there:
        if path.is_file() and path not in kept and not path.name.startswith(listing.name):
            path.unlink()


@contextlib.contextmanager
def _one_line_hub_errors(uri: str, source: HubFiles) -> Iterator[None]:
    """Turn the Hub's refusals into a HexportError that says what to do."""
    page = f"{constants.ENDPOINT}/{source.repo}"
    try:
        yield
    except HFValidationError:
        raise HexportError(f"{uri}: {source.repo} is not a name that a repository can have") from None
    except GatedRepoError:
        raise HexportError(
            f"{uri}: {source.repo} is gated: accept its licence at {page}, and set HF_TOKEN to a token of that account"
        ) from None
    except RepositoryNotFoundError:
        raise HexportError(
            f"{uri}: no repository {source.repo} at {constants.ENDPOINT}; if it is private, set HF_TOKEN to a token "
            "that may read it"
        ) from None
    except RevisionNotFoundError:
        raise HexportError(f"{uri}: {source.repo} has no revision {source.revision}; see {page}/commits") from None
    except HfHubHTTPError as error:
        if error.response.status_code not in (401, 403):
            raise
        raise HexportError(
            f"{uri}: the Hub refuses the token: set HF_TOKEN to a valid one that may read {source.repo}, or unset it"
        ) from None
