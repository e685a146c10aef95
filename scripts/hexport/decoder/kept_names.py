"""This module names files that are kept as long as nothing changes that they depend on."""

import hashlib
import json
from dataclasses import asdict

from hexport.decoder.weights import Checkpoint
from hexport.file_hashes import sha256


def kept_name(depends_on: object) -> str:
    """Return 16 hex digits for values that JSON can hold. Other values give another name."""
    return hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:16]


def identity(checkpoint: Checkpoint) -> list:
    """Return what parameters of a checkpoint depend on, for `kept_name`: digests of its two files, and its basis."""
    files = checkpoint.path, checkpoint.path.with_name("config.json")
    return [*map(sha256, files), asdict(checkpoint.basis)]
