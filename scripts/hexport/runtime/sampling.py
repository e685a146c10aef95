"""This module chooses the next token from dequantised logits."""

from collections import defaultdict

import numpy as np


class Sampler:
    """A sampler is greedy at temperature 0, and else draws from softmax(logits / temperature). The same seed draws the
    same tokens.

    Each `conversation`, whatever its number, draws its own random numbers from that seed: what else is asked does not
    change them.
    """

    def __init__(self, temperature: float, seed: int = 0):
        self.conversation = 0
        self._temperature = temperature
        self._random = defaultdict(lambda: np.random.default_rng(seed))

    def __call__(self, logits: np.ndarray) -> int:
        """Return the id of the next token, from float32 logits (vocab,)."""
        if self._temperature == 0:
            return int(np.argmax(logits))
        scaled = (logits - logits.max()).astype(np.float64) / self._temperature
        weights = np.exp(scaled)
        return int(self._random[self.conversation].choice(len(logits), p=weights / weights.sum()))
