"""A .pte on this host: its graphs, loaded and ready to be called. All facts come from the program itself."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from executorch.runtime import Runtime, Verification

from hexport.errors import HexportError
from hexport.lowering.abi import KV_METHOD, SLIDING_WINDOW
from hexport.lowering.capabilities import emulator_refusal
from hexport.lowering.conformance import LOGITS_SCALE, LOGITS_ZERO_POINT, faults
from hexport.lowering.inspection import inspect_program
from hexport.lowering.layout import layout_of


@dataclass
class Graph:
    """One method of a program, with the sizes read from its inputs and outputs.

    logits = (codes - logits_zero_point) * logits_scale; of float logits, the scale is 1 and the zero point 0.
    A mask's highest code means attend, code 0 means masked; in a float mask, 0 and -65535 do. With a sliding window,
    there is a second mask for the layers that have it.
    """

    method: object
    ar_len: int
    context_len: int
    n_layers: int
    n_kv_heads: int
    head_dim: int
    vocab_size: int
    cache_dtype: np.dtype
    mask_dtype: np.dtype
    token_dtype: np.dtype
    logits_scale: float
    logits_zero_point: int
    sliding_window: int | None

    @property
    def cache_len(self) -> int:
        return self.context_len - self.ar_len

    def call(
        self,
        tokens: np.ndarray,
        masks: list[np.ndarray],
        positions: np.ndarray,
        caches: list[np.ndarray],
        rows: slice = slice(None),
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Run once: tokens (1, AR) integers, masks (1, 1, AR, CL) of mask_dtype, positions (1, AR) int32, caches in
        the program's order: k of every layer (1, n_kv, head_dim, CL - AR), then v (1, n_kv, CL - AR, head_dim).

        A graph whose AR length is the context length has no cache: positions and caches are dropped.
        Returns float32 logits (n_rows, vocab) of `rows` of the AR tokens, and the new k and v of every layer, in codes.
        """
        arrays = [np.asarray(tokens, self.token_dtype), *masks]
        if self.cache_len:
            arrays += [positions, *caches]
        logits, *new = self.method.execute([torch.from_numpy(array) for array in arrays])
        codes = logits.numpy()[0, rows].astype(np.float32)
        return (codes - self.logits_zero_point) * self.logits_scale, [array.numpy() for array in new]


class Program:
    """A loaded .pte, ours or another that obeys the ABI of the QNN llama runner.

    Raises HexportError if the file is no program, a broken one, one of another layout, or one for other hardware; it is
    read before it is loaded. methods: names of its graphs.

    Load a program once at a time: when a graph of it goes, executorch ends all other loads of the same program too.
    """

    def __init__(self, path: Path):
        self.path = path
        self.facts = inspect_program(path)
        found = faults(self.facts)
        if found:
            more = f" (and {len(found) - 1} more: scripts/inspect_pte.py lists them)" if found[1:] else ""
            raise HexportError(f"{path}: {found[0]}{more}")
        refusal = emulator_refusal(self.facts)
        if refusal:
            raise HexportError(f"{path}: does not run on this host: {refusal}")
        self.methods = list(self.facts.methods)
        try:
            self._program = Runtime.get().load_program(path, verification=Verification.InternalConsistency)
        except RuntimeError as error:
            raise HexportError(f"{path}: a broken ExecuTorch program: {_one_line(error)}; export it again") from None

    def constant(self, name: str) -> object:
        """Value of a constant method. Raises HexportError where the program has none of this name."""
        if name not in self.facts.constants:
            raise HexportError(f"{self.path}: constant method {name} is missing; export the program again with hexport")
        return self.facts.constants[name]

    def graph(self, name: str = KV_METHOD) -> Graph:
        """Load a graph on the HTP's emulator."""
        if name not in self.methods:
            raise HexportError(
                f"{self.path}: method {name} is missing; found: {', '.join(sorted(self.methods))}; "
                "choose a mode that needs no other, or export the program for this mode"
            )
        try:
            method = self._program.load_method(name)
        except RuntimeError as error:
            raise HexportError(
                f"{self.path}: {name} does not load on this host: {_one_line(error)}; "
                "the log has the reason of QNN; export the program again, or run it on a phone"
            ) from None
        layout = layout_of(self.facts.methods[name])
        quantised = layout.logits_dtype != "float32"
        return Graph(
            method=method,
            ar_len=layout.ar_len,
            context_len=layout.context_len,
            n_layers=layout.n_layers,
            n_kv_heads=layout.n_kv_heads,
            head_dim=layout.head_dim,
            vocab_size=layout.vocab_size,
            cache_dtype=np.dtype(layout.cache_dtype),
            mask_dtype=np.dtype(layout.mask_dtype),
            token_dtype=np.dtype(layout.token_dtype),
            logits_scale=self.constant(LOGITS_SCALE) if quantised else 1.0,
            logits_zero_point=self.constant(LOGITS_ZERO_POINT) if quantised else 0,
            sliding_window=self.facts.constants.get(SLIDING_WINDOW),
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
