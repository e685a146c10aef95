"""This module makes the attention masks of one call, in the codes of the program. They are built anew for each call, so
that nothing can be stale.

Columns are the cache slots first, then the tokens of the call. Cache slot c holds the token at position c.
"""

import functools

import numpy as np

from hexport.runtime.graph import Graph

# Mask dtype -> codes of attend and masked. The codes are those of the ExecuTorch QNN llama runner (kv_manager.cpp).
CODES = {
    np.dtype(np.uint16): (65535, 0),
    np.dtype(np.uint8): (255, 0),
    np.dtype(np.float32): (0.0, -65535.0),
}


def coded_masks(graph: Graph, n_past: int) -> list[np.ndarray]:
    """Return the masks of a block that follows the n_past tokens of the cache: each token sees these, and the block up
    to itself.

    Each mask is (1, 1, AR, CL) in graph.mask_dtype: that of the full layers, and that of the sliding layers, if there
    are any.
    """
    return tree_masks(graph, n_past, _triangle(graph.ar_len), n_past + np.arange(graph.ar_len))


def tree_masks(graph: Graph, n_past: int, sees: np.ndarray, positions: np.ndarray) -> list[np.ndarray]:
    """Return the masks of tokens at any `positions` (AR,): each sees the cache, and of the call what its row of `sees`
    says.

    Each mask is (1, 1, AR, CL) in graph.mask_dtype, as of `coded_masks`. sees is bool (AR, AR). With a window, a token
    at position p sees one at position q only if p - q < window.
    """
    attend, masked = CODES[np.dtype(graph.mask_dtype)]
    slots, window = graph.cache_len, graph.sliding_window
    full = np.full((1, 1, graph.ar_len, graph.context_len), masked, graph.mask_dtype)
    full[..., :n_past] = attend
    np.copyto(full[0, 0, :, slots:], attend, where=sees)
    if window is None:
        return [full]
    sliding = full.copy()
    left_behind = (positions - window)[:, None]  # of each row, the last position that it does not see
    np.copyto(sliding[0, 0, :, :n_past], masked, where=np.arange(n_past) <= left_behind)
    np.copyto(sliding[0, 0, :, slots:], masked, where=positions <= left_behind)
    return [full, sliding]


@functools.cache
def _triangle(n: int) -> np.ndarray:
    return np.tri(n, dtype=bool)
