"""The bases in which a decoder computes one and the same function. A recipe chooses."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Basis:
    """r1: hidden states are rotated; r2: so are the values of each KV head. See `rotation.py`."""

    r1: bool = False
    r2: bool = False


PUBLISHED = Basis()
