"""A coded weight is a weight as an algorithm that sees calibration data has coded it."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class CodedWeight:
    """A coded weight says how a projection's weight (out, in, 1, 1) is coded.

    scales: float32 (out,), or (out, blocks, 1, 1) where each block of input channels has a scale.
    codes: int8 in the weight's shape; None where each code is the one nearest to its weight.
    """

    scales: torch.Tensor
    codes: torch.Tensor | None = None

    def rows(self, start: int, end: int) -> "CodedWeight":
        """Return the scales and codes of the output channels from `start` up to `end`, without `end`."""
        return CodedWeight(self.scales[start:end], None if self.codes is None else self.codes[start:end])

    def values(self) -> torch.Tensor:
        """Return the values that the codes stand for, float32 (out, in, 1, 1). There must be codes."""
        rows = self.codes.reshape(self.scales.numel(), -1)
        return (rows * self.scales.reshape(-1, 1)).reshape(self.codes.shape)


NO_WEIGHTS: Mapping[str, CodedWeight] = {}  # it is shared, and never changed
