"""This module holds the KV cache that the graphs of a program share.

Cache slots hold the graphs' codes. A graph puts out only the k and v of its own tokens. The runtime copies those that
stay into the next free slots, and masks say which slots are taken, so nothing is shifted and a free slot may hold
anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hexport.runtime.graph import Graph


@dataclass
class TokenCache:
    """A cache, here or on a phone, holds the first n_past tokens of a conversation."""

    n_past: int = 0

    def keep(self, n: int) -> None:
        """Forget all but the first n tokens, from the next call on. Raises ValueError for more than there are."""
        if not 0 <= n <= self.n_past:
            raise ValueError(f"{n} tokens of {self.n_past} cannot be kept")
        self.n_past = n


class KVCache(TokenCache):
    """This cache has k and v of every layer in this process; slot c holds token c. `arrays` are k, then v of every
    layer, as the last graph read them.

    A graph reads k (1, n_kv, head_dim, CL - AR) and v (1, n_kv, CL - AR, head_dim). As the number of slots is a stride
    of these arrays, the cache is arranged for one graph at a time; its bytes are moved when another one is called.
    There is room for CL - AR tokens of the graph with the smallest AR length.
    """

    def __init__(self, *graphs: Graph):
        super().__init__()
        first, self.capacity = graphs[0], max(graph.cache_len for graph in graphs)
        self._heads, self._dim = first.n_kv_heads, first.head_dim
        size = first.n_kv_heads * first.head_dim * self.capacity
        self._memory = [np.zeros(size, first.cache_dtype) for _ in range(2 * first.n_layers)]
        self._set_views(self.capacity)

    def arranged_for(self, graph: Graph) -> list[np.ndarray]:
        """Return k, then v of every layer, as the graph's inputs. They are valid until the cache is arranged for
        another graph.

        Raises ValueError where the graph has fewer slots than the cache holds tokens.
        """
        self._arrange(graph.cache_len)
        return self.arrays

    def append(self, new: list[np.ndarray], columns: int | Sequence[int]) -> None:
        """Store columns of a graph's new k (1, n_kv, head_dim, AR) and v (1, n_kv, AR, head_dim): the first n, or those
        that are listed, in this order.

        What no longer fits is dropped: a token at position CL - 1 is followed by none.
        """
        room = self.capacity - self.n_past
        n = min(columns if isinstance(columns, int) else len(columns), room)
        if self.n_past + n > self._slots:  # a graph with few slots, or none, has put out more than it could read
            self._arrange(self.capacity)
        chosen = slice(n) if isinstance(columns, int) else list(columns[:n])
        free = slice(self.n_past, self.n_past + n)
        for cache, put_out in zip(self._by_token, _by_token(new), strict=True):
            cache[free] = put_out[chosen]
        self.n_past += n

    def _arrange(self, slots: int) -> None:
        if slots == self._slots:
            return
        if self.n_past > slots:
            raise ValueError(f"{self.n_past} tokens do not fit into {slots} slots; keep fewer first")
        held = [cache[: self.n_past].copy(order="K") for cache in self._by_token]
        self._set_views(slots)
        for cache, tokens in zip(self._by_token, held, strict=True):
            cache[: self.n_past] = tokens

    def _set_views(self, slots: int) -> None:
        self._slots, size, n_layers = slots, self._heads * self._dim * slots, len(self._memory) // 2
        shapes = [(1, self._heads, self._dim, slots)] * n_layers + [(1, self._heads, slots, self._dim)] * n_layers
        self.arrays = [memory[:size].reshape(shape) for memory, shape in zip(self._memory, shapes, strict=True)]
        self._by_token = _by_token(self.arrays)


def _by_token(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Return views of k, then v of every layer, whose first axis is that of the tokens."""
    n_layers = len(arrays) // 2
    return [k.transpose(3, 0, 1, 2) for k in arrays[:n_layers]] + [v.transpose(2, 0, 1, 3) for v in arrays[n_layers:]]
