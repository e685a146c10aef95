"""SeqMSE: per output channel, the weight range whose codes change a projection's output least.

A min-max range lets one large weight coarsen the steps of all others. As in AIMET (`aimet_torch.seq_mse`) and in
ExecuTorch (backends/qualcomm/_passes/seq_mse.py), candidates are the ranges that are 1/n, 2/n … n/n as wide, and the
best is that of the least squared error on calibration data. These run the projection for every candidate. But the sum
over tokens of ((w - w_q) x)² is (w - w_q) G (w - w_q)ᵀ, where G sums x xᵀ: one pass over the data does for all
candidates, and nothing grows with the tokens.
"""

import math

import torch

from hexport.quantization.weights import Observer, narrowed

LOWEST = 0.3  # narrower ranges are not tried: best for 17 of 25,920 4-bit channels of SmolLM2-135M, for no LPBQ ones
BLOCKS = 4  # of a symmetric matrix, of which half of those off its diagonal are left out
CHUNK = 1 << 17  # weights searched at a time: their float copies stay in the processor's cache


def best_ratios(weight: torch.Tensor, products: torch.Tensor, observer: Observer, candidates: int) -> torch.Tensor:
    """Ratios (out,) of a weight (out, in, 1, 1), given the sum of products of its inputs (in, in).

    A channel keeps its min-max range where no candidate is better: where it is zero, or holds no numbers.
    """
    parts = weight.cpu().split(rows_at_a_time(weight[0].numel()))
    return torch.cat([_best_ratios(part, products, observer, candidates) for part in parts])


def rows_at_a_time(n_in: int) -> int:
    """How many rows of a weight with so many input channels are searched at a time."""
    return max(1, CHUNK // n_in)


def _best_ratios(weight: torch.Tensor, products: torch.Tensor, observer: Observer, candidates: int) -> torch.Tensor:
    ratios = torch.arange(candidates, math.ceil(LOWEST * candidates) - 1, -1) / candidates
    fakes = narrowed(observer, weight, ratios.tolist())
    differences = torch.stack([weight - fake for fake in fakes]).flatten(2).to(products.device)
    errors = _quadratic_form(differences.flatten(0, 1), products).cpu().reshape(len(ratios), -1)
    return torch.where(errors.amin(dim=0).isfinite(), ratios[errors.argmin(dim=0)], 1.0)


def _quadratic_form(rows: torch.Tensor, products: torch.Tensor) -> torch.Tensor:
    """Return x P xᵀ (n,) of each row x (n, in), for a symmetric P (in, in): of what P has twice, one half is enough."""
    form, step = torch.zeros(len(rows), device=rows.device), -(-rows.shape[1] // BLOCKS)
    for start in range(0, rows.shape[1], step):
        own = rows[:, start : start + step]
        part = own @ products[start : start + step, start : start + step]
        if start:
            part.addmm_(rows[:, :start], products[:start, start : start + step], alpha=2)
        form += torch.linalg.vecdot(part, own)
    return form
