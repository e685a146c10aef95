"""The KV cache of a static graph, with the smart mask: a slot that is not attended may hold anything.

Cache slots hold the graph's codes. The graph puts out only the k and v of the current tokens; the runtime copies them
into the next free slots and unmasks these, so nothing is ever shifted.
"""

import numpy as np

from hexport.runtime.program import Graph

ATTEND = 65535
MASKED = 0


class KVCache:
    """k (1, n_kv, head_dim, CL - AR) and v (1, n_kv, CL - AR, head_dim) of every layer, and the masks over them.

    masks: uint16 (1, 1, AR, CL) of the next call; that of the full layers, and that of the sliding layers, if any.
    """

    def __init__(self, graph: Graph):
        n, dim, slots, dtype = graph.n_kv_heads, graph.head_dim, graph.cache_len, graph.cache_dtype
        self.k = [np.zeros((1, n, dim, slots), dtype) for _ in range(graph.n_layers)]
        self.v = [np.zeros((1, n, slots, dim), dtype) for _ in range(graph.n_layers)]
        self.slots, self.n_past, self.window = slots, 0, graph.sliding_window
        full = causal_mask_codes(graph.ar_len, graph.context_len)
        self.masks = [full] if self.window is None else [full, full.copy()]
        self._slide()

    @property
    def arrays(self) -> list[np.ndarray]:
        """In the order of the graph's inputs."""
        return [*self.k, *self.v]

    def append(self, new: list[np.ndarray], n: int) -> None:
        """Store the first n columns of the graph's new k and v. What no longer fits is dropped: nothing follows it."""
        n_stored = max(0, min(n, self.slots - self.n_past))
        where = slice(self.n_past, self.n_past + n_stored)
        for cache, column in zip(self.k, new[: len(self.k)], strict=True):
            cache[..., where] = column[..., :n_stored]
        for cache, row in zip(self.v, new[len(self.k) :], strict=True):
            cache[:, :, where] = row[:, :, :n_stored]
        self.masks[0][..., where] = ATTEND
        self.n_past += n
        self._slide()

    def _slide(self) -> None:
        """Row i of the window mask: the full mask, without what is `window` tokens or more behind token n_past + i."""
        if self.window is None:
            return
        full, sliding = self.masks
        ar_len = full.shape[2]
        token = self.n_past + np.arange(ar_len)
        seen = np.concatenate([np.arange(self.slots), token])
        sliding[0, 0] = np.where(token[:, None] - seen < self.window, full[0, 0], MASKED)


def causal_mask_codes(ar_len: int, context_len: int) -> np.ndarray:
    """uint16 (1, 1, AR, CL) with an empty cache: row i attends the current tokens up to itself."""
    mask = np.full((1, 1, ar_len, context_len), MASKED, np.uint16)
    mask[0, 0, :, context_len - ar_len :] = np.tri(ar_len, dtype=np.uint16) * ATTEND
    return mask
