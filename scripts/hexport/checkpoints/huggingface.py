"""This module reads a Hugging Face folder as a canonical checkpoint: a config with safetensors or pickled weights."""

from collections.abc import Iterator
from pathlib import Path

from hexport.checkpoints.files import PublishedCheckpoint
from hexport.checkpoints.safetensors_file import read_safetensors
from hexport.checkpoints.tensor import Tensor
from hexport.checkpoints.torch_file import is_state_dict, open_torch_file
from hexport.errors import HexportError
from hexport.json_file import read_json


def read_folder(checkpoint: PublishedCheckpoint) -> tuple[dict, list[Tensor]]:
    """Return the config and the tensors of a folder as they are; the tensors stay on disk.

    Raises HexportError for a malformed file, for a type other than F32, F16 and BF16, and for a tensor found twice.
    """
    config = read_json(checkpoint.config)
    tensors: dict[str, Tensor] = {}
    for file in checkpoint.weights:
        for tensor in read_safetensors(file) if file.suffix == ".safetensors" else _read_pickled(file):
            if tensor.name in tensors:
                raise HexportError(f"{file}: tensor {tensor.name} is in another file of the folder too")
            tensors[tensor.name] = tensor
    # Old checkpoints hold these buffers. They follow from the config, and transformers skips them too.
    return config, [tensor for name, tensor in tensors.items() if not name.endswith("rotary_emb.inv_freq")]


def _read_pickled(path: Path) -> Iterator[Tensor]:
    """Yield the tensors of a pytorch_model.bin."""
    file = open_torch_file(path)
    if not is_state_dict(file.content):
        raise HexportError(f"{path}: expected a state_dict, names with tensors; save the model's state_dict alone")
    for name, tensor in file.content.items():
        yield file.tensor(name, tensor)
