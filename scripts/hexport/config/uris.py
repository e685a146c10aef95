"""This module tells what a checkpoint or a tokenizer may be: a path on this machine, or a URI that can be fetched."""

from hexport.checkpoints.uri import HubFiles, WebFile, parse_uri
from hexport.config.settings import Model
from hexport.errors import HexportError


def is_remote(source: str) -> bool:
    return "://" in source


def check_uri(uri: str, sha256: str | None) -> None:
    """Check a URI; raise HexportError where it cannot be fetched, or where nothing vouches for its content."""
    source = parse_uri(uri)
    if not isinstance(source, WebFile):
        return
    if not (sha256 or source.sha256):
        raise HexportError(f"{uri}: needs a SHA-256: end the URI in #sha256=<64 hex digits>, or give the key sha256")
    if sha256 and source.sha256 and sha256.lower() != source.sha256:
        raise HexportError(f"{uri}: the key sha256 differs from that of the URI")


def may_hold_tokenizer(uri: str) -> bool:
    """Return whether a checkpoint's download can have a tokenizer in it: a repository can, and a GGUF file."""
    source = parse_uri(uri)
    return (isinstance(source, HubFiles) and source.file is None) or uri.partition("#")[0].endswith(".gguf")


def tokenizer_of(model: Model) -> str:
    """Return the path or URI of a model's tokenizer, which is the checkpoint's where the model names none."""
    return model.checkpoint if model.tokenizer is None else model.tokenizer
