"""Texts read in blocks, with the logits of every token, where the runtime wants those of the last one only."""

import numpy as np

from hexport.runtime.kv_cache import KVCache
from hexport.runtime.masks import coded_masks
from hexport.runtime.program import Graph


def read_blocks(graph: Graph, tokens: list[int], cache: KVCache | None = None) -> np.ndarray:
    """Logits (n, vocab) of tokens that stand behind those of the cache, by default an empty one; the last block is
    padded. Every block must begin within the graph's slots, CL - AR.
    """
    cache, first, rows = cache or KVCache(graph), cache.n_past if cache else 0, []
    for start in range(0, len(tokens), graph.ar_len):
        block, n_past = tokens[start : start + graph.ar_len], first + start
        assert n_past <= graph.cache_len, f"{n_past} tokens stand before a block, {graph.cache_len} slots are there"
        ids = np.array([block + [1] * (graph.ar_len - len(block))], np.int32)
        positions = np.arange(n_past, n_past + graph.ar_len, dtype=np.int32)[None]
        logits, new = graph.call(ids, coded_masks(graph, n_past), positions, cache.arranged_for(graph))
        cache.append(new, len(block))
        rows.append(logits[: len(block)])
    return np.concatenate(rows)
