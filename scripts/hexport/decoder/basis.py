"""This module describes the bases in which a decoder computes one and the same function. A recipe chooses one."""

from dataclasses import dataclass, replace
from typing import TypeVar

from hexport.decoder.config import DecoderConfig
from hexport.decoder.sizes import Sizes

T = TypeVar("T", DecoderConfig, Sizes)


@dataclass(frozen=True)
class Basis:
    """A basis says in which form a decoder's weights and hidden states are. The decoder's function stays the same.

    r1: hidden states are rotated (see `rotation.py`).
    r2: the values of each KV head are rotated (see `rotation.py`).
    widen: hidden states have this many channels beyond the published ones (see `widening.py`).
    row_scales: rows of the table of embeddings are stored from -1 to 1, with a scale beside each (see `weights.py`).
    """

    r1: bool = False
    r2: bool = False
    widen: int = 0
    row_scales: bool = False

    def of(self, sizes: T) -> T:
        """Return the sizes of a decoder that computes in this basis, given the published ones."""
        wide = replace(sizes, hidden_size=sizes.hidden_size + self.widen)
        return replace(wide, row_scales=self.row_scales) if isinstance(wide, DecoderConfig) else wide


PUBLISHED = Basis()
