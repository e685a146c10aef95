"""This module evaluates the program itself: what a graph on a device gives to token sequences, beside other models'
logits of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from hexport.decoder.config import DecoderConfig
from hexport.decoder.stream import KeptStates, StreamedDecoder, stream
from hexport.evaluation.comparison import Comparison
from hexport.evaluation.lm_eval_model import EvaluationModel, evaluate
from hexport.evaluation.scores import Scoring, TokenScores
from hexport.progress import Progress
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


@dataclass(frozen=True)
class References:
    """The references are the float decoder and, where it is known, the fake-quantised one, in this order.

    kept: for each, where the states behind its last layer are kept.
    """

    config: DecoderConfig
    decoders: list[StreamedDecoder]
    kept: list[KeptStates]

    def prepare(self, asked: list[list[list[int]]], progress: Progress) -> None:
        """Pass what a device will be asked (`asked_of`) through the layers, as far as their states are not kept yet.

        What is left to do beside the device is the output projection. Its logits cannot be kept: those of a text take
        hundreds of times the space of its states.
        """
        for sequences in asked:
            stream(self.decoders, self.config, Scoring(sequences).inputs, progress, kept=self.kept)


def figures(comparisons: list[Comparison]) -> dict[str, float | None]:
    """Return what `Comparison.as_json` does of that with the float decoder, and with a fake-quantised one,
    `top1_agreement_qdq`.
    """
    of_float, *of_quantised = (comparison.as_json() for comparison in comparisons)
    return of_float | ({"top1_agreement_qdq": of_quantised[0]["top1_agreement"]} if of_quantised else {})


def asked_of(tasks: dict, limit: int | None, tokenizer: Tokenizer, context_len: int) -> list[list[list[int]]]:
    """Return the sequences that tasks ask a model of this context length for, in the order of its calls."""
    asked: list[list[list[int]]] = []

    def record(sequences: list[list[int]]) -> list[TokenScores]:
        asked.append(sequences)
        return [TokenScores(np.zeros(len(each) - 1), np.zeros(len(each) - 1, bool)) for each in sequences]

    evaluate(tasks, EvaluationModel(tokenizer, context_len, record), limit)
    return asked


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
    references: References | None,
    progress: Progress,
) -> dict:
    """Return what evaluation.json says of a graph: metrics of the tasks, tokens, and how far the logits are from
    others.

    `references` are those for the graph's context length; None compares with nothing. Raises HexportError as
    `lm_eval_model.evaluate` does.
    """
    context_len = reader.graph.context_len
    comparisons = [Comparison() for _ in references.decoders] if references else []

    def score(sequences: list[list[int]]) -> list[TokenScores]:
        return device_scores(reader, sequences, references, comparisons, progress)

    model = EvaluationModel(tokenizer, context_len, score)
    with progress.stage("evaluate"):
        metrics = evaluate(tasks, model, limit)
    facts = {"graph": reader.name, "context_len": context_len, "tasks": metrics, "tokens": model.scored_tokens}
    return facts | (figures(comparisons) if references else {})


def device_scores(
    reader: Reader,
    sequences: list[list[int]],
    references: References | None,
    comparisons: list[Comparison],
    progress: Progress,
) -> list[TokenScores]:
    """Score sequences of 2 to CL + 1 tokens by a reader, and add its logits to the comparison with each reference."""
    scoring = Scoring(sequences)
    rows = _Rows(reader.read(scoring.inputs, progress))
    if references is None:
        for row in range(0, scoring.rows, reader.graph.ar_len):
            scoring.add(row, torch.from_numpy(rows.take(min(reader.graph.ar_len, scoring.rows - row))))
        return scoring.scores()

    def on_logits(row: int, *others: torch.Tensor) -> None:
        logits = torch.from_numpy(rows.take(len(others[0])))
        scoring.add(row, logits)
        for comparison, other in zip(comparisons, others, strict=True):
            comparison.add(other, logits.to(other.device))

    stream(references.decoders, references.config, scoring.inputs, progress, on_logits, kept=references.kept)
    return scoring.scores()


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
