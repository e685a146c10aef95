"""This module holds a graph of a program: its sizes, and how it is called."""

from dataclasses import dataclass

import numpy as np
import torch


@dataclass
class GraphSizes:
    """The sizes are what there is to know of a graph that another machine calls. Lengths are in tokens."""

    ar_len: int
    context_len: int
    vocab_size: int

    @property
    def cache_len(self) -> int:
        """Return the slots of the graph's cache, CL - AR; 0 for a graph that reads the whole context in one call."""
        return self.context_len - self.ar_len


@dataclass
class Graph(GraphSizes):
    """A graph is one loaded method of a program, with the sizes read from its inputs and outputs.

    logits = (codes - logits_zero_point) * logits_scale; of float logits, the scale is 1 and the zero point 0. A mask's
    highest code means attend, code 0 means masked; in a float mask, 0 and -65535 do. With a sliding window, there is a
    second mask for the layers that have it. Dtypes may be given by name.
    """

    method: object
    n_layers: int
    n_kv_heads: int
    head_dim: int
    cache_dtype: np.dtype
    mask_dtype: np.dtype
    token_dtype: np.dtype
    logits_scale: float
    logits_zero_point: int
    sliding_window: int | None

    def __post_init__(self):
        for name in ("cache_dtype", "mask_dtype", "token_dtype"):
            setattr(self, name, np.dtype(getattr(self, name)))

    def call(
        self,
        tokens: np.ndarray,
        masks: list[np.ndarray],
        positions: np.ndarray,
        caches: list[np.ndarray],
        rows: slice | np.ndarray = slice(None),
        as_put_out: bool = False,
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Run once. Return logits (n_rows, vocab) of `rows` of the AR tokens, in float32 or `as_put_out` by the
        program, in codes or floats; and the new k and v of every layer, in codes.

        tokens: (1, AR) integers. masks: (1, 1, AR, CL) of mask_dtype. positions: (1, AR) int32. caches, in the
        program's order: k of every layer (1, n_kv, head_dim, CL - AR), then v (1, n_kv, CL - AR, head_dim). A graph
        whose AR length is the context length has no cache: positions and caches are dropped.
        """
        arrays = [np.asarray(tokens, self.token_dtype), *masks]
        if self.cache_len:
            arrays += [positions, *caches]
        logits, *new = (tensor.numpy() for tensor in self.method.execute([torch.from_numpy(array) for array in arrays]))
        logits = logits[0, rows]
        return logits if as_put_out else dequantised(logits, self.logits_scale, self.logits_zero_point), new


def dequantised(codes: np.ndarray, scale: float, zero_point: int) -> np.ndarray:
    """Return the float32 logits of a program's codes."""
    return (codes.astype(np.float32) - zero_point) * scale
