"""A weight as an algorithm has coded it that sees calibration data."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class CodedWeight:
    """How a projection's weight (out, in, 1, 1) is coded.

    scales: float32 (out,), or (out, blocks, 1, 1). codes: int8 in the weight's shape; None for those that are nearest.
    """

    scales: torch.Tensor
    codes: torch.Tensor | None = None

    def rows(self, start: int, end: int) -> "CodedWeight":
        """Of these output channels."""
        return CodedWeight(self.scales[start:end], None if self.codes is None else self.codes[start:end])

    def values(self) -> torch.Tensor:
        """What the codes stand for, float32 (out, in, 1, 1)."""
        rows = self.codes.reshape(self.scales.numel(), -1)
        return (rows * self.scales.reshape(-1, 1)).reshape(self.codes.shape)


NO_WEIGHTS: Mapping[str, CodedWeight] = {}  # nobody changes it
