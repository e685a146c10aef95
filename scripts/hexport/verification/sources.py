"""This module gets what a program is compared with: a checkpoint as it is published or as hexport has it, and its
tokenizer.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hexport.build.artifacts import download_file
from hexport.build.sources import download_name
from hexport.checkpoints.canonical import check_tensors, write_safetensors
from hexport.checkpoints.fetch import fetch
from hexport.checkpoints.files import find_checkpoint
from hexport.checkpoints.source import read_checkpoint
from hexport.checkpoints.uri import HubFiles, parse_uri
from hexport.code_digest import SCRIPTS
from hexport.config.uris import is_remote
from hexport.decoder.weights import Checkpoint
from hexport.errors import HexportError
from hexport.evaluation.local_text import read_text
from hexport.json_file import read_json
from hexport.progress import Progress
from hexport.provenance import write_json, write_manifest, write_text
from hexport.tokenizers.files import tokenizer_files
from hexport.tokenizers.source import read_tokenizer
from hexport.tokenizers.tokenizer import Tokenizer, load_tokenizer
from hexport.verification.built import built_program

DOWNLOADS = "artifacts"  # the workflow keeps downloads there, too
TEXT = SCRIPTS.parent / "demo" / "evaluation.txt"
MOST_TOKENS, MOST_CHARACTERS = 256, 10_000


@dataclass(frozen=True)
class Reference:
    """A reference is a canonical checkpoint and its tokenizers.

    own: the tokenizer that is published with the checkpoint. used: the one that the program is used with, another one
    where the user names it. Each is None where there is none.
    """

    checkpoint: Checkpoint
    own: Tokenizer | None
    used: Tokenizer | None


def model_of(checkpoint: str, tokenizer: str | None, program: Path, folder: Path, progress: Progress) -> Reference:
    """Return the reference that paths or URIs name. What has to be converted is put into `folder`.

    A program in hexport's artifacts is used with the tokenizer that lies there, unless another one is named. Raises
    HexportError where a source cannot be had or read.
    """
    path = _local(checkpoint, progress)
    canonical = _canonical(path, folder / "checkpoint", progress)
    own = _tokenizer(place, folder) if (place := _tokenizer_beside(path)) else None
    built = built_program(program)
    if tokenizer is not None:
        used = _tokenizer(_local(tokenizer, progress), folder)
    elif built and built.tokenizer.is_dir():
        used = _tokenizer(built.tokenizer, folder)
    else:
        used = own
    return Reference(Checkpoint(canonical), own, used)


def tokens_of(model: Reference, text: Path | None) -> list[int]:
    """Return the ids of the beginning of a text, MOST_TOKENS at most; without a tokenizer, ids that are drawn.

    Raises HexportError where the text cannot be read, or there is no tokenizer to read it with.
    """
    if model.used is None:
        if text is not None:
            raise HexportError(f"{text}: the checkpoint has no tokenizer to read it with; name one by --tokenizer")
        size = model.checkpoint.config.vocab_size
        return np.random.default_rng(0).integers(size, size=MOST_TOKENS).tolist()
    return model.used.encode(read_text(text or TEXT)[:MOST_CHARACTERS], bos=model.used.adds_bos)[:MOST_TOKENS]


def _local(source: str, progress: Progress) -> Path:
    """Return a path as it is; for a URI, what it names in the folder of the workflow's downloads."""
    if not is_remote(source):
        return Path(source)
    uri, file = parse_uri(source), Path(download_file(DOWNLOADS, download_name(source)))
    if not file.is_file():
        with progress.stage("fetch"):
            facts = fetch(source, None, file, say=progress.say)
        settings = {"uri": source, "sha256": None}
        write_manifest(file, script=SCRIPTS / "fetch.py", inputs={}, params=settings, stages=progress.stages, **facts)
    return file.parent / (uri.file or "") if isinstance(uri, HubFiles) else file


def _canonical(path: Path, folder: Path, progress: Progress) -> Path:
    """Return the folder of a checkpoint in hexport's form: its own, where its one file of weights has the names
    already.
    """
    if path.is_file() and path.name == "model.safetensors":
        path = path.parent
    if (path / "model.safetensors").is_file() and (path / "config.json").is_file():
        return path
    published = find_checkpoint(path, None)
    with progress.stage("read the checkpoint"):
        config, tensors = read_checkpoint(published)
        write_safetensors(folder / "model.safetensors", check_tensors(tensors, config, str(path)), str(path))
        write_json(folder / "config.json", config)
    return folder


def _tokenizer_beside(checkpoint: Path) -> Path | None:
    """Return where the tokenizer lies: beside the weights; in hexport's artifacts, in the folder next to theirs; None
    for neither.
    """
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    for place in (checkpoint, folder.with_name("tokenizer")):
        try:
            tokenizer_files(place)
            return place
        except HexportError:
            continue
    return None


def _tokenizer(source: Path, folder: Path) -> Tokenizer:
    beside = (source if source.is_dir() else source.parent) / "tokenizer_config.json"
    if beside.is_file() and "stop_tokens" in read_json(beside):  # hexport has converted it
        return load_tokenizer(beside.parent)
    text, config = read_tokenizer(source)
    place = Path(tempfile.mkdtemp(dir=folder))
    write_text(place / "tokenizer.json", text)
    write_json(place / "tokenizer_config.json", config)
    return load_tokenizer(place)
