"""This module says where checkpoints and tokenizers come from: URIs that `fetch` downloads, and paths on
this machine."""

import hashlib
import re
from pathlib import Path

from hexport.build.artifacts import download_file
from hexport.checkpoints.files import checkpoint_files
from hexport.checkpoints.uri import HubFiles, parse_uri
from hexport.config.settings import Config, Model
from hexport.config.uris import is_remote, tokenizer_of
from hexport.errors import HexportError
from hexport.provenance import LISTING
from hexport.tokenizers.files import is_sentencepiece, model_file, published_model, tokenizer_files

MAX_NAME = 150  # characters from the end of a name, where its suffix is; a manifest's name is longer


def is_hub(uri: str) -> bool:
    """Return whether the URI names files of the Hugging Face Hub."""
    return isinstance(parse_uri(uri), HubFiles)


def download_name(uri: str) -> str:
    """Return what `fetch` writes for a URI, as a path under artifacts/downloads: a file, or the listing of a folder.

    The URI's digest keeps files of one name apart.
    """
    source = parse_uri(uri)
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", source.name)[-MAX_NAME:]
    name = f"{hashlib.sha256(uri.encode()).hexdigest()[:12]}-{plain}"
    return f"{name}/{LISTING}" if isinstance(source, HubFiles) else name


def downloads(config: Config) -> dict[str, str]:
    """Return what `fetch` writes for each URI of the config, as `download_name` -> URI."""
    models = config.models.values()
    checkpoints = [model.checkpoint for model in models if model.has_float_model]
    return {download_name(uri): uri for uri in [*checkpoints, *map(tokenizer_of, models)] if is_remote(uri)}


def checkpoint_source(config: Config, model: str) -> str:
    """Return the file or folder that the canonical checkpoint is made from."""
    return _local(config, config.models[model].checkpoint)


def checkpoint_inputs(config: Config, model: str) -> list[str]:
    """Return the files that the canonical checkpoint is made from, or the download. Raises HexportError for a model
    with ready programs that are not compared with its checkpoint."""
    spec = config.models[model]
    if not spec.has_float_model:
        raise HexportError(
            f"models.{model} runs the programs in {spec.pre_gen_pte}, and nothing is built from its checkpoint; "
            "remove pre_gen_pte to build it"
        )
    if is_remote(spec.checkpoint):
        return [_download(config, spec.checkpoint), *([spec.params] if spec.params else [])]
    return list(map(str, checkpoint_files(Path(spec.checkpoint), spec.params and Path(spec.params))))


def tokenizer_source(config: Config, model: str) -> str:
    """Return the file or folder that the tokenizer is made from."""
    return _local(config, tokenizer_of(config.models[model]))


def tokenizer_inputs(config: Config, model: str) -> list[str]:
    """Return the files that the tokenizer is made from, or the download."""
    source = tokenizer_of(config.models[model])
    return [_download(config, source)] if is_remote(source) else list(map(str, tokenizer_files(Path(source))))


def tokenizer_model_inputs(config: Config, model: str) -> list[str]:
    """Return the published *.model of a tokenizer, or the download that may hold it. Raises HexportError where the
    tokenizer is on this machine and has no *.model."""
    source = tokenizer_of(config.models[model])
    return [_download(config, source)] if is_remote(source) else [str(published_model(Path(source)))]


def tokenizer_forms(model: Model) -> list[str]:
    """Return the names of the files that a tokenizer can be had as. Of one to be downloaded, only tokenizer.json is
    certain."""
    source = tokenizer_of(model)
    published = None if is_remote(source) else model_file(Path(source))
    if published is None:
        return ["tokenizer.json"]
    return ["tokenizer.json", "tokenizer.model", *(["tokenizer.bin"] if is_sentencepiece(published) else [])]


def _download(config: Config, uri: str) -> str:
    return download_file(config.artifacts, download_name(uri))


def _local(config: Config, source: str) -> str:
    """Return the checkpoint or tokenizer itself, on this machine."""
    if not is_remote(source):
        return source
    uri, path = parse_uri(source), _download(config, source)
    if not isinstance(uri, HubFiles):
        return path
    return str(Path(path).parent / (uri.file or ""))
