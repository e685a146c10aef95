"""This module tells in figures how far the logits of a program are from others.

SQNR is that of logits less their row's mean, which softmax does not see: a common offset of all logits would hide
noise.
"""

import math
from collections.abc import Sequence

import numpy as np

from hexport.evaluation.comparison import Comparison
from hexport.evaluation.scores import token_scores

LARGEST = 700.0  # a float holds the exponential of this
ROWS = 64  # so many rows are compared at a time, in float64


def less_row_means(logits: np.ndarray) -> np.ndarray:
    """Return float64 logits (rows, vocab) less their row's mean."""
    logits = logits.astype(np.float64)
    return logits - logits.mean(axis=1, keepdims=True)


def sqnr_db(reference: np.ndarray, logits: np.ndarray) -> float:
    """Return the SQNR of rows of logits in dB; infinite where they are equal, and minus infinity where they are no
    numbers.
    """
    signal = noise = 0.0
    for start in range(0, len(reference), ROWS):
        rows = less_row_means(reference[start : start + ROWS])
        signal += float(np.square(rows).sum())
        noise += float(np.square(rows - less_row_means(logits[start : start + ROWS])).sum())
    if not math.isfinite(noise):
        return -math.inf
    return math.inf if noise == 0 else 10 * math.log10(max(signal, 1e-300) / noise)


def agreement(reference: np.ndarray, logits: np.ndarray, tokens: Sequence[int]) -> dict[str, float | None]:
    """Return SQNR, KL divergence, first choices alike, and perplexities of the text, as its logits (tokens, vocab)
    tell.
    """
    compared = Comparison()
    compared.add(reference, logits)
    own, others = (_perplexity(each, tokens) for each in (reference, logits))
    return {
        **compared.as_json(),
        "sqnr_db": sqnr_db(reference, logits),
        "perplexity_float": own,
        "perplexity": others,
        "perplexity_ratio": others / own if own and others else None,
    }


def _perplexity(logits: np.ndarray, tokens: Sequence[int]) -> float | None:
    """Return the perplexity of a text; None for a text of one token."""
    n = min(len(logits), len(tokens) - 1)
    if n < 1:
        return None
    surprise = -float(token_scores(logits[:n], tokens[: n + 1]).log_probs.mean())
    return math.exp(surprise) if surprise < LARGEST else math.inf
