"""Choosing the next token from dequantised logits."""

from collections.abc import Callable

import numpy as np

Sampler = Callable[[np.ndarray], int]


def sampler(temperature: float, seed: int = 0) -> Sampler:
    """Greedy at temperature 0, else softmax(logits / temperature). The same seed draws the same tokens."""
    if temperature == 0:
        return lambda logits: int(np.argmax(logits))
    random = np.random.default_rng(seed)

    def sample(logits: np.ndarray) -> int:
        scaled = (logits - logits.max()).astype(np.float64) / temperature
        weights = np.exp(scaled)
        return int(random.choice(len(logits), p=weights / weights.sum()))

    return sample
