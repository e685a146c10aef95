"""The program itself: what a graph on a device gives to token sequences, beside other models' logits of them."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from hexport.decoder.weights import Checkpoint
from hexport.evaluation.comparison import Comparison
from hexport.evaluation.fp import FloatDecoder
from hexport.evaluation.qdq import FakeQuantisedDecoder
from hexport.evaluation.scores import Scoring, TokenScores
from hexport.evaluation.stream import stream
from hexport.lowering.abi import KV_METHOD, PREFILL_METHOD
from hexport.progress import Progress
from hexport.quantization.quant_attrs import QuantAttrs
from hexport.quantization.recipe import Recipe
from hexport.runtime.conversation import common_prefix
from hexport.runtime.kv_cache import KVCache
from hexport.runtime.prefill import read_rows
from hexport.runtime.program import Graph, Program

METHODS = {"prefill": PREFILL_METHOD, "kv": KV_METHOD}


class References:
    """The float decoder and the fake-quantised one, and how far a program's logits are from those of each."""

    def __init__(self, checkpoint: Checkpoint, attrs: QuantAttrs, recipe: Recipe, context_len: int):
        self.config = checkpoint.config
        self.decoders = (
            FloatDecoder(checkpoint, context_len),
            FakeQuantisedDecoder(checkpoint, attrs, recipe, context_len),
        )
        self.comparisons = Comparison(), Comparison()

    def as_json(self) -> dict[str, float | None]:
        of_float, of_quantised = (comparison.as_json() for comparison in self.comparisons)
        return {**of_float, "top1_agreement_qdq": of_quantised["top1_agreement"]}


def load_graph(path: Path, wanted: str) -> tuple[Graph, str]:
    """The graph to score by, and its name: "prefill" where that is wanted and there, else "kv".

    Raises HexportError for a program that does not load.
    """
    program = Program(path)
    name = wanted if METHODS[wanted] in program.methods else "kv"
    return program.graph(METHODS[name]), name


def device_scores(
    graph: Graph, sequences: list[list[int]], references: References | None, progress: Progress
) -> list[TokenScores]:
    """Score sequences of 2 to CL + 1 tokens by a graph, and compare its logits with those of the references."""
    order = sorted(range(len(sequences)), key=sequences.__getitem__)
    scoring = Scoring([sequences[i] for i in order])
    rows = _Rows(read(graph, scoring.inputs, progress))
    if references is None:
        for row in range(0, scoring.rows, graph.ar_len):
            scoring.add(row, torch.from_numpy(rows.take(min(graph.ar_len, scoring.rows - row))))
    else:

        def on_logits(row: int, *others: torch.Tensor) -> None:
            logits = torch.from_numpy(rows.take(len(others[0])))
            scoring.add(row, logits)
            for comparison, other in zip(references.comparisons, others, strict=True):
                comparison.add(other, logits.to(other.device))

        stream(references.decoders, references.config, scoring.inputs, progress, on_logits)
    found = dict(zip(order, scoring.scores(), strict=True))
    return [found[i] for i in range(len(sequences))]


def read(graph: Graph, inputs: Sequence[Sequence[int]], progress: Progress) -> Iterator[np.ndarray]:
    """Float32 logits (rows, vocab) behind each token of the inputs, one input after the other.

    Inputs have up to CL tokens. What one has in common with the one before it is not read again: sort them.
    """
    cache, kept = KVCache(graph), np.empty((0, graph.vocab_size), np.float32)
    shared = [0, *itertools.starmap(common_prefix, itertools.pairwise(inputs)), 0]
    n_calls = sum(len(list(_calls(graph, first, len(tokens)))) for first, tokens in zip(shared, inputs, strict=False))
    steps = progress.steps(itertools.repeat(None), "device", n_calls, unit="token" if graph.ar_len == 1 else "block")
    for tokens, n_before, n_behind in zip(inputs, shared, shared[1:], strict=False):
        parts = [kept[:n_before]]
        yield from parts
        for first, done, end in _calls(graph, n_before, len(tokens)):
            next(steps)
            cache.keep(first)
            logits = read_rows(graph, cache, list(tokens[first:end]), slice(done - first, end - first))
            yield logits
            if done < n_behind:
                parts.append(logits)
        kept = np.concatenate(parts)[:n_behind]


def _calls(graph: Graph, n_before: int, n: int) -> Iterator[tuple[int, int, int]]:
    """First token, first new token and end of each call that reads the tokens up to n behind the first n_before.

    A block begins within the graph's slots, CL - AR: the last one of a full context reads some tokens again.
    """
    if n > graph.context_len:
        raise ValueError(f"{n} tokens do not fit into a context of {graph.context_len}")
    done = n_before
    while done < n:
        first = min(done, graph.cache_len)
        end = min(first + graph.ar_len, n)
        yield first, done, end
        done = end


class _Rows:
    """Rows that come in blocks, taken in other numbers."""

    def __init__(self, blocks: Iterator[np.ndarray]):
        self._blocks, self._rest = blocks, None

    def take(self, n: int) -> np.ndarray:
        parts = [] if self._rest is None else [self._rest]
        while sum(map(len, parts)) < n:
            parts.append(next(self._blocks))
        rows = np.concatenate(parts)
        self._rest = rows[n:]
        return rows[:n]
