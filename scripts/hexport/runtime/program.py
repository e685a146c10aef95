"""A .pte on this host: its graphs, and what their metadata says. All facts come from the program itself."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from executorch.runtime import Runtime, Verification

from hexport.errors import HexportError
from hexport.lowering.abi import KV_METHOD, SLIDING_WINDOW

FILE_IDENTIFIER = b"ET"  # at byte 4, before the version of the format


@dataclass
class Graph:
    """One method of a program, with the sizes read from its inputs and outputs.

    logits = (codes - logits_zero_point) * logits_scale. A mask's highest code means attend, code 0 means masked.
    With a sliding window, there is a second mask for the layers that have it.
    """

    method: object
    ar_len: int
    context_len: int
    n_layers: int
    n_kv_heads: int
    head_dim: int
    vocab_size: int
    cache_dtype: np.dtype
    logits_scale: float
    logits_zero_point: int
    sliding_window: int | None

    @property
    def cache_len(self) -> int:
        return self.context_len - self.ar_len

    def call(self, tokens: np.ndarray, masks: list[np.ndarray], positions: np.ndarray, caches: list[np.ndarray]):
        """Run once: tokens and positions int32 (1, AR), masks uint16 (1, 1, AR, CL), caches in the program's order.

        Returns float32 logits (AR, vocab) and the new k and v of every layer, in codes.
        """
        inputs = [torch.from_numpy(array) for array in (tokens, *masks, positions, *caches)]
        logits, *new = self.method.execute(inputs)
        codes = logits.numpy()[0].astype(np.float32)
        return (codes - self.logits_zero_point) * self.logits_scale, [array.numpy() for array in new]


class Program:
    """A loaded .pte. Raises HexportError if the file is no program, or not one that this runtime can drive.

    Load a program once at a time: when a graph of it goes, executorch ends all other loads of the same program too.
    """

    def __init__(self, path: Path):
        self.path = path
        with open(path, "rb") as file:
            if file.read(8)[4:6] != FILE_IDENTIFIER:
                raise HexportError(f"{path}: not an ExecuTorch program")
        try:
            self._program = Runtime.get().load_program(path, verification=Verification.InternalConsistency)
        except RuntimeError as error:
            raise HexportError(f"{path}: a broken ExecuTorch program: {error}") from None
        self.methods = self._program.method_names

    def constant(self, name: str):
        """Value of a constant method. Raises HexportError where the program has none of this name."""
        if name not in self.methods:
            raise HexportError(f"{self.path}: constant method {name} is missing; the program is not one of hexport's")
        return self._program.load_method(name).execute([])[0]

    def graph(self, name: str = KV_METHOD) -> Graph:
        """Load a graph on the HTP or its emulator."""
        if name not in self.methods:
            raise HexportError(f"{self.path}: method {name} is missing; found: {', '.join(sorted(self.methods))}")
        try:
            method = self._program.load_method(name)
        except RuntimeError as error:
            raise HexportError(f"{self.path}: {name} does not load on this host: {error}") from None
        meta = method.metadata
        mask = meta.input_tensor_meta(1).sizes()
        if len(mask) != 4:
            raise HexportError(
                f"{self.path}: the mask has shape {list(mask)}; only programs with (1, 1, AR, CL) run here"
            )
        logits, k = meta.output_tensor_meta(0), meta.output_tensor_meta(1)
        return Graph(
            method=method,
            ar_len=mask[2],
            context_len=mask[3],
            n_layers=self.constant("get_n_layers"),
            n_kv_heads=k.sizes()[1],
            head_dim=k.sizes()[2],
            vocab_size=logits.sizes()[2],
            cache_dtype=cache_dtype(self.constant("get_kv_io_bit_width")),
            logits_scale=self.constant("get_logits_scale"),
            logits_zero_point=self.constant("get_logits_zero_point"),
            sliding_window=self.constant(SLIDING_WINDOW) if SLIDING_WINDOW in self.methods else None,
        )


def cache_dtype(bits: int) -> np.dtype:
    return np.dtype({8: np.uint8, 16: np.uint16, 32: np.float32}[bits])
