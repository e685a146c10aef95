"""This module holds the KV cache that the graphs of a program share.

Cache slots hold the graphs' codes. A graph puts out only the k and v of its own tokens. The runtime copies those that
stay into the next free slots, and masks say which slots are taken, so nothing is shifted and a free slot may hold
anything.
"""

from collections.abc import Sequence

import numpy as np

from hexport.runtime.graph import Graph


class KVCache:
    """A cache holds k and v of every layer for the first n_past tokens of a conversation; slot c holds token c.

    A graph reads k (1, n_kv, head_dim, CL - AR) and v (1, n_kv, CL - AR, head_dim). As the number of slots is a stride
    of these arrays, the cache is arranged for one graph at a time; its bytes are moved when another one is called.
    There is room for CL - AR tokens of the graph with the smallest AR length.
    """

    def __init__(self, *graphs: Graph):
        first = graphs[0]
        self.capacity, self.n_past = max(graph.cache_len for graph in graphs), 0
        self._heads, self._dim = first.n_kv_heads, first.head_dim
        size = first.n_kv_heads * first.head_dim * self.capacity
        self._memory = [np.zeros(size, first.cache_dtype) for _ in range(2 * first.n_layers)]
        self._set_views(self.capacity)

    @property
    def arrays(self) -> list[np.ndarray]:
        """Return k, then v of every layer, as the last graph read them."""
        return [*self._k, *self._v]

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
        for cache, column in zip(self._k, new[: len(self._k)], strict=True):
            cache[..., free] = column[..., chosen]
        for cache, row in zip(self._v, new[len(self._k) :], strict=True):
            cache[:, :, free] = row[:, :, chosen]
        self.n_past += n

    def keep(self, n: int) -> None:
        """Forget all but the first n tokens. Raises ValueError for more than there are."""
        if not 0 <= n <= self.n_past:
            raise ValueError(f"{n} tokens of {self.n_past} cannot be kept")
        self.n_past = n

    def _arrange(self, slots: int) -> None:
        if slots == self._slots:
            return
        if self.n_past > slots:
            raise ValueError(f"{self.n_past} tokens do not fit into {slots} slots; keep fewer first")
        k = [cache[..., : self.n_past].copy() for cache in self._k]
        v = [cache[:, :, : self.n_past].copy() for cache in self._v]
        self._set_views(slots)
        for cache, held in zip(self._k, k, strict=True):
            cache[..., : self.n_past] = held
        for cache, held in zip(self._v, v, strict=True):
            cache[:, :, : self.n_past] = held

    def _set_views(self, slots: int) -> None:
        self._slots, size = slots, self._heads * self._dim * slots
        k_memory, v_memory = self._memory[: len(self._memory) // 2], self._memory[len(self._memory) // 2 :]
        self._k = [memory[:size].reshape(1, self._heads, self._dim, slots) for memory in k_memory]
        self._v = [memory[:size].reshape(1, self._heads, slots, self._dim) for memory in v_memory]
