"""Additive attention masks. Columns are the cache slots first, then the AR tokens of the current call."""

import torch

MASKED = -255.0  # far below any attention score, near enough that 16 bits still resolve the scores
ATTEND = 0.0


def causal_mask(ar_len: int, context_len: int, n_past: int) -> torch.Tensor:
    """Return float32 (1, 1, AR, CL): row i sees cache slots [0, n_past) and the current tokens up to itself."""
    cache_len = context_len - ar_len
    mask = torch.full((ar_len, context_len), MASKED)
    mask[:, :n_past] = ATTEND
    mask[:, cache_len:] = torch.full((ar_len, ar_len), MASKED).triu(1)
    return mask[None, None]
