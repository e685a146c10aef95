"""This module reads whole texts for the logits behind each of their tokens."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from hexport.progress import Progress
from hexport.runtime.graph import Graph, GraphSizes
from hexport.runtime.kv_cache import KVCache
from hexport.runtime.prefill import read_rows

Texts = Sequence[Sequence[int]]


def read(graph: Graph, inputs: Texts, progress: Progress) -> Iterator[np.ndarray]:
    """Yield float32 logits (rows, vocab) behind each token of the inputs, one input after the other.

    Inputs have up to CL tokens; ValueError is raised for more. What an input has in common with the one before it is
    not read again, so sorted inputs are read fastest.
    """
    return every_row(graph, inputs, read_new(graph, inputs), progress)


def read_new(graph: Graph, inputs: Texts, as_put_out: bool = False) -> Iterator[np.ndarray]:
    """Yield what `read_rows` gives for each call that reads inputs. Tokens that the input before begins with too are
    not read again.
    """
    cache = KVCache(graph)
    for tokens, n_before in zip(inputs, shared_lengths(inputs), strict=False):
        for first, done, end in _calls(graph, n_before, len(tokens)):
            cache.keep(first)
            rows = slice(done - first, end - first)
            yield read_rows(graph, cache, list(tokens[first:end]), rows, as_put_out=as_put_out)


def every_row(
    graph: GraphSizes, inputs: Texts, blocks: Iterator[np.ndarray], progress: Progress
) -> Iterator[np.ndarray]:
    """Yield the blocks of `read_new`, each taken when its call is due, and between them the rows that inputs share."""
    kept, shared = np.empty((0, graph.vocab_size), np.float32), shared_lengths(inputs)
    n_calls = sum(len(list(_calls(graph, first, len(tokens)))) for first, tokens in zip(shared, inputs, strict=False))
    steps = progress.steps(itertools.repeat(None), "device", n_calls, unit="token" if graph.ar_len == 1 else "block")
    for tokens, n_before, n_behind in zip(inputs, shared, shared[1:], strict=False):
        parts = [kept[:n_before]]
        yield from parts
        for _, done, _ in _calls(graph, n_before, len(tokens)):
            next(steps)
            logits = next(blocks)
            yield logits
            if done < n_behind:
                parts.append(logits)
        kept = np.concatenate(parts)[:n_behind]


def shared_lengths(inputs: Texts) -> list[int]:
    """Return how many tokens each input has in common with the one before it, and 0 at the end."""
    return [0, *itertools.starmap(common_prefix, itertools.pairwise(inputs)), 0]


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how many tokens two texts begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _calls(graph: GraphSizes, n_before: int, n: int) -> Iterator[tuple[int, int, int]]:
    """Yield first token, first new token and end of each call that reads the tokens up to n behind the first n_before.

    A block begins within the graph's slots, CL - AR, so the last one of a full context reads some tokens again. Raises
    ValueError for more tokens than the context has.
    """
    if n > graph.context_len:
        raise ValueError(f"{n} tokens do not fit into a context of {graph.context_len}")
    done = n_before
    while done < n:
        first = min(done, graph.cache_len)
        end = min(first + graph.ar_len, n)
        yield first, done, end
        done = end
