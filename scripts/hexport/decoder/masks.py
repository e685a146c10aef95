"""This module makes additive attention masks for calibration and evaluation, and has the values of all: float32 (1, 1,
AR, CL).

Their columns are first the cache slots, then the AR tokens of the current call.
"""

import functools

import torch

from hexport.decoder.device import device
from hexport.programs.abi import MASKS

MASKED = -255.0  # far below any attention score, but near enough that 16 bits still resolve the scores
ATTEND = 0.0
MASK = MASKS[0]  # the mask's quantisation point has this name, too


@functools.lru_cache(maxsize=2)
def packed_masks(lengths: tuple[int, ...], window: int | None) -> tuple[torch.Tensor, ...]:
    """Return the masks of a pack, float32 (1, 1, n, n): each is causal within each sequence.

    The second is that of sliding layers, with a window.
    """
    sequence = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(device())
    behind = torch.arange(len(sequence), device=device())
    behind = behind[:, None] - behind  # how many tokens a key is behind the query
    full = (sequence[:, None] == sequence) & (behind >= 0)
    seen = (full,) if window is None else (full, full & (behind < window))
    return tuple(torch.where(mask, ATTEND, MASKED)[None, None] for mask in seen)
