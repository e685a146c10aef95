"""This module tells what a model gives to each token of a sequence: its log-probability, and whether it was the first
choice.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

CHUNK = 1 << 21  # logits turned into probabilities at a time


@dataclass(frozen=True)
class TokenScores:
    """The scores of a sequence of n tokens are float64 and bool (n - 1,), of token i + 1 given the tokens up to i.

    log_probs are natural logarithms. `top` says that the token has the largest logit.
    """

    log_probs: np.ndarray
    top: np.ndarray


def token_scores(logits: torch.Tensor | np.ndarray, tokens: Sequence[int]) -> TokenScores:
    """Return the scores of one sequence of n tokens, by the logits behind its first n - 1 tokens (n - 1, vocab)."""
    log_probs, top = score_rows(torch.as_tensor(logits), torch.tensor(tokens[1:])[:, None])
    return TokenScores(log_probs[:, 0].numpy(), top[:, 0].numpy())


def score_rows(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log-probabilities (float64) and first choices (bool) of `targets` (rows, m), by logits (rows, vocab). Both
    are (rows, m), on the CPU.
    """
    results = []
    step = max(1, CHUNK // logits.shape[1])
    for rows, ids in zip(logits.split(step), targets.to(logits.device, torch.int64).split(step), strict=True):
        log_probs = rows.float().log_softmax(1)
        results.append((log_probs.gather(1, ids).double().cpu(), (log_probs.argmax(1, keepdim=True) == ids).cpu()))
    log_probs, top = (torch.cat(parts) for parts in zip(*results, strict=True))
    return log_probs, top


class Scoring:
    """A scoring holds the scores of sequences, filled row by row as their logits come.

    `inputs` are what a model has to read: the sequences without their last tokens. Those that differ only there, as the
    answers A, B, C and D to one question do, are read once. They are sorted, so that a device reads what neighbours
    begin with once. Row r is token r of all inputs, one after the other.
    """

    def __init__(self, sequences: list[list[int]]):
        self._sequences = sequences
        of_input: dict[tuple[int, ...], list[int]] = {}
        for number, sequence in enumerate(sequences):
            of_input.setdefault(tuple(sequence[:-1]), []).append(number)
        self._of_input = dict(sorted(of_input.items()))
        self.inputs = list(self._of_input)
        self.rows = sum(map(len, self.inputs))
        self._targets = torch.zeros(self.rows, max(map(len, self._of_input.values()), default=1), dtype=torch.int64)
        for row, column, number in self._places():
            self._targets[row : row + len(sequences[number]) - 1, column] = torch.tensor(sequences[number][1:])
        self._log_probs = torch.full(self._targets.shape, torch.nan, dtype=torch.float64)
        self._top = torch.zeros(self._targets.shape, dtype=torch.bool)

    def add(self, row: int, logits: torch.Tensor) -> None:
        """Add the logits (rows, vocab) of the rows from `row` on."""
        rows = slice(row, row + len(logits))
        self._log_probs[rows], self._top[rows] = score_rows(logits, self._targets[rows])

    def scores(self) -> list[TokenScores]:
        """Return the scores in the order of the sequences, once all rows have been added."""
        log_probs, top = self._log_probs.numpy(), self._top.numpy()
        scores: list[TokenScores | None] = [None] * len(self._sequences)
        for row, column, number in self._places():
            rows = slice(row, row + len(self._sequences[number]) - 1)
            scores[number] = TokenScores(log_probs[rows, column].copy(), top[rows, column].copy())
        return scores

    def _places(self):
        """Yield first row, column of the targets and number of each sequence."""
        row = 0
        for tokens, numbers in self._of_input.items():
            for column, number in enumerate(numbers):
                yield row, column, number
            row += len(tokens)
