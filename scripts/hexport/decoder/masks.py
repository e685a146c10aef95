"""This module makes additive attention masks.

Their columns are first the cache slots, then the AR tokens of the current call.
"""

import torch

from hexport.programs.abi import MASKS

MASKED = -255.0  # far below any attention score, but near enough that 16 bits still resolve the scores
ATTEND = 0.0
MASK = MASKS[0]  # the mask's quantisation point has this name, too


def causal_mask(ar_len: int, context_len: int, n_past: int, window: int | None = None) -> torch.Tensor:
    """Return a mask, float32 (1, 1, AR, CL): row i sees cache slots [0, n_past) and the current tokens up to itself.

    With a window, it sees only the last `window` of these tokens, itself included.
    """
    cache_len = context_len - ar_len
    query = n_past + torch.arange(ar_len)[:, None]
    key = torch.cat([torch.arange(cache_len), n_past + torch.arange(ar_len)])[None]
    filled = torch.ones(context_len, dtype=torch.bool)
    filled[n_past:cache_len] = False
    seen = filled & (key <= query)
    if window is not None:
        seen &= query - key < window
    return torch.where(seen, ATTEND, MASKED)[None, None]


def causal_masks(ar_len: int, context_len: int, n_past: int, window: int | None) -> tuple[torch.Tensor, ...]:
    """Return the masks that a decoder reads: that of full layers and, where there are any, that of sliding ones."""
    full = causal_mask(ar_len, context_len, n_past)
    return (full,) if window is None else (full, causal_mask(ar_len, context_len, n_past, window))
