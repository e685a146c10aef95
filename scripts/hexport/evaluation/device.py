"""This module evaluates the program itself: what a graph on a device gives to token sequences, beside other models'
logits of them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from hexport.decoder.float_decoder import FloatDecoder
from hexport.decoder.stream import stream
from hexport.decoder.weights import Checkpoint
from hexport.evaluation.comparison import Comparison
from hexport.evaluation.lm_eval_model import EvaluationModel, evaluate
from hexport.evaluation.qdq import FakeQuantisedDecoder
from hexport.evaluation.scores import Scoring, TokenScores
from hexport.progress import Progress
from hexport.quantization.quant_attrs import QuantAttrs
from hexport.quantization.recipe import Recipe
from hexport.runtime.graph import Graph, GraphSizes
from hexport.runtime.program import METHODS, Program, graph_name
from hexport.runtime.reading import Texts, read
from hexport.tokenizers.tokenizer import Tokenizer


class Reader(Protocol):
    """A reader is a graph on any kind of device, "prefill" or "kv", that reads texts as `runtime.reading.read` does."""

    graph: GraphSizes
    name: str

    def read(self, inputs: Texts, progress: Progress) -> Iterator[np.ndarray]: ...


@dataclass
class GraphReader:
    """A graph reader is a graph that is loaded in this process."""

    graph: Graph
    name: str

    def read(self, inputs: Texts, progress: Progress) -> Iterator[np.ndarray]:
        """Yield what `runtime.reading.read` does: float32 logits (rows, vocab) behind each token of the inputs."""
        return read(self.graph, inputs, progress)


class References:
    """The references are the float decoder and, where it is known, the fake-quantised one. They keep how far a
    program's logits are from those of each.
    """

    def __init__(self, checkpoint: Checkpoint, attrs: QuantAttrs | None, recipe: Recipe | None, context_len: int):
        self.config, self.decoders = checkpoint.config, [FloatDecoder(checkpoint, context_len)]
        if attrs is not None:
            self.decoders.append(FakeQuantisedDecoder(checkpoint, attrs, recipe, context_len))
        self.comparisons = [Comparison() for _ in self.decoders]

    def as_json(self) -> dict[str, float | None]:
        """Return the figures of `Comparison.as_json` against the float decoder, and with a fake-quantised one,
        `top1_agreement_qdq`.
        """
        of_float, *of_quantised = (comparison.as_json() for comparison in self.comparisons)
        return of_float | ({"top1_agreement_qdq": of_quantised[0]["top1_agreement"]} if of_quantised else {})


def load_reader(path: Path, wanted: str) -> GraphReader:
    """Load the graph to score by: "prefill" where that is wanted and there, else "kv". Raises HexportError for a
    program that does not load.
    """
    program = Program(path)
    name = graph_name(program.methods, wanted)
    return GraphReader(program.graph(METHODS[name]), name)


def evaluate_reader(
    reader: Reader,
    tasks: dict,
    limit: int | None,
    tokenizer: Tokenizer,
    references: Callable[[int], References] | None,
    progress: Progress,
) -> dict:
    """Return what evaluation.json says of a graph: metrics of the tasks, tokens, and how far the logits are from
    others.

    `references` makes the models to compare with from a context length; without it, there are none. Raises HexportError
    as `lm_eval_model.evaluate` does.
    """
    beside = references(reader.graph.context_len) if references else None
    model = EvaluationModel(
        tokenizer, reader.graph.context_len, lambda texts: device_scores(reader, texts, beside, progress)
    )
    with progress.stage("evaluate"):
        metrics = evaluate(tasks, model, limit)
    facts = {"graph": reader.name, "context_len": reader.graph.context_len, "tasks": metrics}
    return facts | {"tokens": model.scored_tokens} | (beside.as_json() if beside else {})


def device_scores(
    reader: Reader, sequences: list[list[int]], references: References | None, progress: Progress
) -> list[TokenScores]:
    """Score sequences of 2 to CL + 1 tokens by a reader, and compare its logits with those of the references."""
    order = sorted(range(len(sequences)), key=sequences.__getitem__)
    scoring = Scoring([sequences[i] for i in order])
    rows = _Rows(reader.read(scoring.inputs, progress))
    if references is None:
        for row in range(0, scoring.rows, reader.graph.ar_len):
            scoring.add(row, torch.from_numpy(rows.take(min(reader.graph.ar_len, scoring.rows - row))))
    else:

        def on_logits(row: int, *others: torch.Tensor) -> None:
            logits = torch.from_numpy(rows.take(len(others[0])))
            scoring.add(row, logits)
            for comparison, other in zip(references.comparisons, others, strict=True):
                comparison.add(other, logits.to(other.device))

        stream(references.decoders, references.config, scoring.inputs, progress, on_logits)
    found = dict(zip(order, scoring.scores(), strict=True))
    return [found[i] for i in range(len(sequences))]


class _Rows:
    """Rows that come in blocks, and are taken in other numbers."""

    def __init__(self, blocks: Iterator[np.ndarray]):
        self._blocks, self._rest = blocks, None

    def take(self, n: int) -> np.ndarray:
        parts = [] if self._rest is None else [self._rest]
        while sum(map(len, parts)) < n:
            parts.append(next(self._blocks))
        rows = np.concatenate(parts)
        self._rest = rows[n:]
        return rows[:n]
