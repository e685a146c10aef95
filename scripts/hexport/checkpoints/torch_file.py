"""This module reads files of torch.save, but keeps weights out of memory and runs no code that a pickle names."""

import struct
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hexport.checkpoints.tensor import TORCH_TYPES, Tensor, stored
from hexport.errors import HexportError
from hexport.regular_file import regular_file

MAX_PICKLE_BYTES = 16 << 20  # of a data.pkl, which holds names, shapes and places: some 100,000 tensors
TRIED_WITH = "2.13.0"

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TorchFile:
    """An instance holds what torch.save was given, with tensors on the meta device that know where their bytes begin.

    `content` is that object. `records` maps the byte at which each record of the zip file begins to its size in bytes,
    as the zip file itself says.
    """

    path: Path
    content: object
    records: dict[int, int]

    def tensor(self, name: str, tensor: "torch.Tensor") -> Tensor:
        """Return a tensor of `content` as one that is read from the file.

        Raises HexportError for a type other than float32, float16 and bfloat16, for a sparse, nested or non-contiguous
        tensor, and where its bytes are not where torch.load says.
        """
        dtypes = {torch_name: dtype for dtype, torch_name in TORCH_TYPES.items()}
        if str(tensor.layout) != "torch.strided" or tensor.is_nested:
            raise HexportError(f"{self.path}: tensor {name} is sparse or nested; save it again after .to_dense()")
        if (dtype := dtypes.get(str(tensor.dtype).removeprefix("torch."))) is None:
            raise HexportError(f"{self.path}: tensor {name} has type {tensor.dtype}; supported: {', '.join(dtypes)}")
        storage, start = tensor.untyped_storage(), tensor.storage_offset() * tensor.itemsize
        if not tensor.is_contiguous() or start + tensor.nbytes > storage.nbytes():
            raise HexportError(f"{self.path}: tensor {name} is not contiguous; save it again after .contiguous()")
        # torch.load computes offsets from how torch.save lays files out, and does not check them.
        if self.records.get(offset := checkpoint_offset(storage), -1) < storage.nbytes():
            raise HexportError(f"{self.path}: not laid out as torch.save does; fetch the original, or save it again")
        return stored(name, self.path, offset + start, dtype, tuple(tensor.shape))


def checkpoint_offset(storage: "torch.UntypedStorage") -> int:
    """Return the byte of its file at which a storage begins that torch.load put on the meta device.

    No public API of torch tells it. Raises HexportError where the installed torch does not tell it at all.
    """
    import torch

    if type(offset := getattr(storage, "_checkpoint_offset", None)) is not int:
        raise HexportError(
            f"torch {torch.__version__} does not tell where tensors are in a file, as torch {TRIED_WITH} does; "
            "install that version, or save the checkpoint as safetensors"
        )
    return offset


def open_torch_file(path: Path) -> TorchFile:
    """Read a file of torch.save, but not its weights.

    Raises HexportError for what is no whole zip file of torch.save, and for more than tensors and plain values.
    """
    import torch  # imported here, as other formats do without it

    records = _records(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # about kinds of tensors that are refused or harmless
            return TorchFile(path, torch.load(path, map_location="meta", weights_only=True), records)
    except Exception as error:  # a damaged pickle can raise anything
        raise HexportError(
            f"{path}: damaged, or holds more than tensors and plain values, which are never unpickled; "
            "save its state_dict alone, or as safetensors"
        ) from error


def is_state_dict(value: object) -> bool:
    """Return whether a value is a dict from names to tensors."""
    import torch

    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in value.items()
    )


def _records(path: Path) -> dict[int, int]:
    records = {}
    try:
        with zipfile.ZipFile(regular_file(path)) as archive, open(path, "rb") as file:
            for entry in archive.infolist():
                if entry.filename.endswith("data.pkl") and entry.file_size > MAX_PICKLE_BYTES:
                    raise HexportError(
                        f"{path}: {entry.filename} has {entry.file_size / 1e6:.0f} MB beside the tensors"
                    )
                file.seek(entry.header_offset + 26)
                name_bytes, extra_bytes = struct.unpack("<HH", file.read(4))
                records[entry.header_offset + 30 + name_bytes + extra_bytes] = entry.compress_size
    except (zipfile.BadZipFile, struct.error, NotImplementedError, ValueError, OverflowError) as error:
        raise HexportError(
            f"{path}: not a whole file of torch.save (PyTorch 1.6 or newer); fetch it again, or save it anew"
        ) from error
    return records
