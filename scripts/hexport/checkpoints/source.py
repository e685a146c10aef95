"""This module reads a published checkpoint of any format as a config and tensors under canonical names."""

from hexport.checkpoints.checksum import check_sha256
from hexport.checkpoints.files import PublishedCheckpoint
from hexport.checkpoints.gguf_checkpoint import read_gguf
from hexport.checkpoints.huggingface import read_folder
from hexport.checkpoints.llama2c import read_bin
from hexport.checkpoints.meta import read_meta
from hexport.checkpoints.tensor import Tensor
from hexport.errors import HexportError

READERS = {"huggingface": read_folder, "gguf": read_gguf, "meta": read_meta, "llama2c": read_bin}


def read_checkpoint(checkpoint: PublishedCheckpoint) -> tuple[dict, list[Tensor]]:
    """Return the config in Hugging Face's form, and the tensors, which stay on disk.

    Raises HexportError as the reader of the checkpoint's format does.
    """
    return READERS[checkpoint.format](checkpoint)


def check_weights(checkpoint: PublishedCheckpoint, sha256: str | None) -> None:
    """Check the weights against a hex SHA-256, or do nothing where that is None.

    Raises HexportError where it differs, and where there are several weight files: one hash cannot check them.
    """
    weights = checkpoint.weights
    if sha256 is not None and len(weights) > 1:
        raise HexportError(
            f"{weights[0].parent}: sha256 can check one file, but there are {len(weights)} weight files; remove sha256"
        )
    check_sha256(weights[0], sha256, str(weights[0]))
