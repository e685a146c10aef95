"""This module measures how far a model's logits and hidden states are from those of the float model, on the same
tokens.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import torch

CHUNK = 1 << 22  # values compared at a time, in float64


@dataclass
class SignalToNoise:
    """An instance accumulates SQNR = 10 log10(sum ref² / sum (ref - x)²) over all values that are added."""

    signal: float = 0.0
    noise: float = 0.0

    def add(self, reference: torch.Tensor, values: torch.Tensor) -> None:
        """Add values and their reference, both of one shape and on one device."""
        reference, values = reference.reshape(-1), values.reshape(-1)
        for ref, x in zip(reference.split(CHUNK), values.split(CHUNK), strict=True):
            ref = ref.double()
            self.signal += float(ref.square().sum())
            self.noise += float((ref - x.double()).square().sum())

    @property
    def db(self) -> float | None:
        """Return the SQNR in dB; None where it is not finite: without any noise, without a signal, or where a value is
        no number.
        """
        if not (math.isfinite(self.signal) and math.isfinite(self.noise) and self.signal and self.noise):
            return None
        return 10 * math.log10(self.signal / self.noise)


@dataclass
class Comparison:
    """A comparison accumulates rows of float logits and of the other model's logits, in float64.

    `divergence_sum` is the sum over rows of KL(float || other), in nats; `agreeing` counts the rows whose largest
    logits are of one token. `as_json` gives their means.
    """

    rows: int = 0
    divergence_sum: float = 0.0
    agreeing: int = 0
    logits: SignalToNoise = field(default_factory=SignalToNoise)

    def add(self, reference: torch.Tensor | np.ndarray, logits: torch.Tensor | np.ndarray) -> None:
        """Add rows of both logits (rows, vocab), in the same order. Raises ValueError where their shapes differ."""
        reference, logits = torch.as_tensor(reference), torch.as_tensor(logits)
        if reference.shape != logits.shape:
            raise ValueError(f"logits of shapes {tuple(reference.shape)} and {tuple(logits.shape)} are compared")
        self.logits.add(reference, logits)
        step = max(1, CHUNK // reference.shape[1])
        for ref, x in zip(reference.split(step), logits.split(step), strict=True):
            self.agreeing += int((ref.argmax(1) == x.argmax(1)).sum())
            ref, x = (rows.double().log_softmax(1) for rows in (ref, x))
            self.divergence_sum += float(torch.sum(ref.exp() * (ref - x)))
        self.rows += len(reference)

    def as_json(self) -> dict[str, float | None]:
        """Return the SQNR in dB, the mean divergence in nats and the part of the rows that agree. A figure is None
        where nothing was compared, or where it is not finite.
        """
        divergence, agreement = (
            value / self.rows if self.rows else None for value in (self.divergence_sum, self.agreeing)
        )
        if divergence is not None and not math.isfinite(divergence):
            divergence = None
        return {"sqnr_db": self.logits.db, "kl_divergence": divergence, "top1_agreement": agreement}
