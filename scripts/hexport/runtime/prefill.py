"""This module reads a prompt in blocks, as many tokens a call as the graph takes."""

from collections.abc import Callable

import numpy as np

from hexport.errors import HexportError
from hexport.runtime.graph import Graph, GraphSizes
from hexport.runtime.kv_cache import KVCache
from hexport.runtime.masks import coded_masks

OnBlock = Callable[[], None]  # called before each block of a prompt
PADDING = 0  # any id of the vocabulary: nothing sees a padding token


def prompt_limit(graph: GraphSizes) -> int:
    """Return how many tokens a prompt may have together with all that stands before it.

    The runner (prompt_processor.cpp) takes CL - AR, so that any last block, padded, ends within the context. A graph as
    long as the context reads one block without a cache, and leaves one position to the answer.
    """
    return graph.context_len - (1 if graph.ar_len == graph.context_len else graph.ar_len)


def n_blocks(graph: GraphSizes, n_tokens: int) -> int:
    """Return how many calls of the graph read n_tokens."""
    return -(-n_tokens // graph.ar_len)


def prefill(graph: Graph, cache: KVCache, tokens: list[int], on_block: OnBlock = lambda: None) -> np.ndarray:
    """Read tokens, one or more, behind those of the cache; return float32 logits (vocab,) of the last one.

    `on_block` is called before each block. Raises ValueError for no tokens, and for more than `prompt_limit` allows.
    """
    if not tokens or cache.n_past + len(tokens) > prompt_limit(graph):
        raise ValueError(f"{len(tokens)} tokens behind {cache.n_past}, of {prompt_limit(graph)}, are no prompt")
    for start in range(0, len(tokens), graph.ar_len):
        on_block()
        logits = read_block(graph, cache, tokens[start : start + graph.ar_len])
    return logits


def read_block(graph: Graph, cache: KVCache, block: list[int]) -> np.ndarray:
    """Read AR tokens or fewer in one call; return float32 logits (vocab,) of the last one."""
    return read_rows(graph, cache, block, slice(len(block) - 1, len(block)))[0]


def read_rows(
    graph: Graph, cache: KVCache, block: list[int], rows: slice, padding: int = PADDING, as_put_out: bool = False
) -> np.ndarray:
    """Read AR tokens or fewer in one call; return logits (n_rows, vocab) of the tokens in `rows`, in float32 or
    `as_put_out` by the program.

    With n_past within the graph's slots, CL - AR, no position is beyond the context, not even that of padding.
    """
    n, n_past = len(block), cache.n_past
    tokens = np.full((1, graph.ar_len), padding, np.int32)
    tokens[0, :n] = block
    positions = np.arange(n_past, n_past + graph.ar_len, dtype=np.int32)[None]
    caches = cache.arranged_for(graph)
    logits, new = graph.call(tokens, coded_masks(graph, n_past), positions, caches, rows, as_put_out)
    cache.append(new, n)
    return logits


def check_prompt(
    graph: GraphSizes, ids: list[int], seq_len: int, where: str, what: str = "the prompt", to_come: int = 0
) -> None:
    """Raise HexportError, before anything runs, for a prompt that leaves no room for an answer, has no tokens, or has
    tokens that the program does not know.

    `ids` are all that the context would hold, the prompt at its end; `to_come` tokens are yet to stand among them.
    """
    if not ids:
        raise HexportError(f"{where}: the prompt has no tokens")
    limit, n = min(prompt_limit(graph), seq_len - 1), len(ids) + to_come
    if n > limit:
        blocks = "" if graph.ar_len in (1, graph.context_len) else " or lower prefill_ar_len"
        advice = "raise seq_len" if seq_len <= limit + 1 else f"raise max_seq_len{blocks}"
        raise HexportError(
            f"{where}: {what} has {n} tokens, at most {limit} fit (max_seq_len {graph.context_len}, "
            f"AR length {graph.ar_len}, seq_len {seq_len}); shorten it, or {advice}"
        )
    if max(ids) >= graph.vocab_size:
        raise HexportError(
            f"{where}: token id {max(ids)} is outside the program's vocabulary of {graph.vocab_size}; "
            "the tokenizer belongs to another model"
        )
