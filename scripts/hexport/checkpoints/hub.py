"""Get a checkpoint from the Hugging Face Hub: hf://org/repo@revision."""

import contextlib
import difflib
import itertools
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import build_hf_headers

from hexport.checkpoints.download import download, one_line_http_errors, partial_path
from hexport.checkpoints.uri import HubFiles
from hexport.errors import HexportError
from hexport.provenance import sha256, write_json

# Repositories hold the same weights several times over: the first of these sets that one has is taken.
WEIGHTS = (
    ("config.json", "model.safetensors"),
    ("config.json", "model.safetensors.index.json", "model-*-of-*.safetensors"),
    ("config.json", "pytorch_model.bin"),
    ("config.json", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"),
    ("params.json", "consolidated.*.pth"),
)
# What hexport.tokenizers.files finds in a folder. It is not imported here: each change of it would fetch all anew.
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


def fetch_hub_files(uri: str, source: HubFiles, weights: bool, listing: Path, say: Callable[[str], None]) -> str:
    """Put the files into the listing's folder, and then write the listing: uri, commit, and file -> size and SHA-256.

    Files that are there are kept if they are those of the commit. Returns the commit. Raises HexportError where the
    repository, the revision or a needed file does not exist, and where the user may not have it.
    """
    folder = listing.parent
    with one_line_http_errors(uri), _one_line_hub_errors(uri, source):
        info = HfApi().model_info(source.repo, revision=source.revision, files_metadata=True)
        files = {file.rfilename: file for file in info.siblings}
        names = needed_files(uri, source, list(files), weights)
        # Weights that are there may be wanted again, when a model of this checkpoint is added.
        there = folder.rglob("*") if weights else map(folder.joinpath, TOKENIZER)
        _remove_others(there, listing, [files[name] for name in names])
        for i, name in enumerate(names):
            say(f"fetch: {name}, file {i + 1} of {len(names)}, {files[name].size / 1e6:.1f} MB")
            url = hf_hub_url(source.repo, name, revision=info.sha)
            download(url, folder / name, _digest(files[name]), build_hf_headers())
    described = {name: {"size": files[name].size, "sha256": _sha256(files[name], folder)} for name in names}
    write_json(listing, {"uri": uri, "commit": info.sha, "files": described})
    return info.sha


def needed_files(uri: str, source: HubFiles, names: list[str], weights: bool) -> list[str]:
    """Of the files of a repository, those that a checkpoint or a tokenizer is read from.

    Raises HexportError where the repository lacks them.
    """
    if source.file is not None:
        if source.file not in names:
            nearest = difflib.get_close_matches(source.file, names, 1, cutoff=0)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            raise HexportError(f"{uri}: {source.repo} has no {source.file}{hint}")
        return [source.file]
    tokenizer = [name for name in TOKENIZER if name in names]
    if not weights:
        if not any(name.endswith(("tokenizer.json", "tokenizer.model")) for name in tokenizer):
            raise HexportError(f"{uri}: {source.repo} has no tokenizer.json or tokenizer.model; name another tokenizer")
        return tokenizer
    for patterns in WEIGHTS:
        found = [[name for name in names if fnmatchcase(name, pattern)] for pattern in patterns]
        if all(found):
            return list(dict.fromkeys([*itertools.chain(*found), *tokenizer]))
    raise HexportError(
        f"{uri}: {source.repo} has no config.json with model.safetensors or pytorch_model.bin, and no params.json with "
        "consolidated.*.pth; to take one file, add its path: hf://org/repo@revision/path"
    )


def _digest(file: RepoSibling) -> str:
    return file.lfs.sha256 if file.lfs else file.blob_id


def _sha256(file: RepoSibling, folder: Path) -> str:
    """`download` has compared a large file with the SHA-256 that the Hub knows it by."""
    return file.lfs.sha256 if file.lfs else sha256(folder / file.rfilename)


def _remove_others(there: Iterable[Path], listing: Path, files: list[RepoSibling]) -> None:
    """Remove the files of an earlier commit, which would be taken for parts of this one."""
    paths = {listing.parent / file.rfilename: _digest(file) for file in files}
    kept = {*paths, *(partial_path(path, digest) for path, digest in paths.items())}
    for path in there:
        if path.is_file() and path not in kept and not path.name.startswith(listing.name):
            path.unlink()


@contextlib.contextmanager
def _one_line_hub_errors(uri: str, source: HubFiles) -> Iterator[None]:
    """Turn what the Hub refuses into a HexportError that says what to do about it."""
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
