"""The bases in which a decoder computes one and the same function. A recipe chooses."""

from dataclasses import dataclass, replace
from typing import TypeVar

from hexport.decoder.config import DecoderConfig
from hexport.decoder.sizes import Sizes

T = TypeVar("T", DecoderConfig, Sizes)


@dataclass(frozen=True)
class Basis:
    """r1: hidden states are rotated; r2: so are the values of each KV head (see `rotation.py`). widen: how many
    channels hidden states have beyond the published ones (see `widening.py`). row_scales: rows of the table of
    embeddings are stored from -1 to 1, and a scale of each beside them (see `weights.py`)."""

    r1: bool = False
    r2: bool = False
    widen: int = 0
    row_scales: bool = False

    def of(self, sizes: T) -> T:
        """The sizes of a decoder that computes in this basis, from the published ones."""
        wide = replace(sizes, hidden_size=sizes.hidden_size + self.widen)
        return replace(wide, row_scales=self.row_scales) if isinstance(wide, DecoderConfig) else wide


PUBLISHED = Basis()
