"""Mode kv: prompt and answer, one token per call of the decode graph."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hexport.errors import HexportError
from hexport.runtime.kv_cache import KVCache
from hexport.runtime.program import Graph
from hexport.runtime.sampling import Sampler


@dataclass(frozen=True)
class Generation:
    """Generated ids, with the stop token if one ended the answer. Times in seconds from the start of the prompt."""

    token_ids: list[int]
    first_token_s: float
    total_s: float


def check_prompt(graph: Graph, prompt_ids: list[int], seq_len: int, where: str) -> None:
    """Raise HexportError, before anything runs, for a prompt that leaves no room for an answer."""
    limit = min(graph.cache_len, seq_len - 1)
    if not prompt_ids:
        raise HexportError(f"{where}: the prompt has no tokens")
    if len(prompt_ids) > limit:
        raise HexportError(
            f"{where}: the prompt has {len(prompt_ids)} tokens, at most {limit} fit "
            f"(max_seq_len {graph.context_len}, AR length {graph.ar_len}, seq_len {seq_len}); shorten it or raise them"
        )
    if max(prompt_ids) >= graph.vocab_size:
        raise HexportError(
            f"{where}: token id {max(prompt_ids)} is outside the program's vocabulary of {graph.vocab_size}; "
            "the tokenizer belongs to another model"
        )


def generate(
    graph: Graph,
    prompt_ids: list[int],
    seq_len: int,
    stop_ids: frozenset[int],
    sample: Sampler,
    on_token: Callable[[int, int], None] = lambda position, token: None,
) -> Generation:
    """Answer a prompt until a stop token, or until prompt and answer have seq_len tokens or fill the context.

    `on_token` hears of every call of the graph: the position, and the token that was read there.
    """
    cache = KVCache(graph)
    tokens, answer = list(prompt_ids), []
    start, first_token_s = time.perf_counter(), 0.0
    for position in range(min(seq_len - 1, graph.context_len)):
        on_token(position, tokens[position])
        logits = step(graph, cache, tokens[position])
        if position < len(prompt_ids) - 1:
            continue
        if not answer:
            first_token_s = time.perf_counter() - start
        answer.append(sample(logits))
        tokens.append(answer[-1])
        if answer[-1] in stop_ids:
            break
    return Generation(answer, first_token_s, time.perf_counter() - start)


def step(graph: Graph, cache: KVCache, token: int) -> np.ndarray:
    """Read one token at the next position; return its logits (vocab,)."""
    position = np.array([[cache.n_past]], np.int32)
    logits, new = graph.call(np.array([[token]], np.int32), cache.masks, position, cache.arrays)
    cache.append(new, 1)
    return logits[0]
