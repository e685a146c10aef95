"""The bases in which a decoder computes one and the same function. A recipe chooses."""

from dataclasses import dataclass, replace
from typing import TypeVar

from hexport.decoder.config import DecoderConfig
from hexport.decoder.sizes import Sizes

T = TypeVar("T", DecoderConfig, Sizes)


@dataclass(frozen=True)
class Basis:
    """r1: hidden states are rotated; r2: so are the values of each KV head (see `rotation.py`). widen: how many
    channels hidden states have beyond the published ones (see `widening.py`)."""

    r1: bool = False
    r2: bool = False
    widen: int = 0

    def of(self, sizes: T) -> T:
        """The sizes of a decoder that computes in this basis, from the published ones."""
        return replace(sizes, hidden_size=sizes.hidden_size + self.widen)


PUBLISHED = Basis()
