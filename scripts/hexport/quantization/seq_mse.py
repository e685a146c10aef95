"""SeqMSE finds, for each output channel, the weight range whose codes change a projection's output least.

With a min-max range, one large weight coarsens the steps of all others. As in AIMET (`aimet_torch.seq_mse`) and in
ExecuTorch (backends/qualcomm/_passes/seq_mse.py), candidates are the ranges that are 1/n, 2/n … n/n as wide, and the
best is that of the least squared error on calibration data. These two run the projection for every candidate. Here, the
sum over tokens of ((w - w_q) x)² is computed as (w - w_q) G (w - w_q)ᵀ, where G sums x xᵀ: one pass over the data does
for all candidates, and nothing grows with the tokens.
"""

import math

import torch

from hexport.quantization.weights import Observer, narrowed

# Narrower ranges are not tried: they are best for 17 of 25,920 4-bit channels of SmolLM2-135M, and for none in blocks.
LOWEST = 0.3
BLOCKS = 4  # a symmetric matrix has so many block rows; half of the blocks off its diagonal are left out
CHUNK = 1 << 17  # so many weights are searched at a time: their float copies stay in the processor's cache


def best_ratios(weight: torch.Tensor, products: torch.Tensor, observer: Observer, candidates: int) -> torch.Tensor:
    """Return how wide the best range of each output channel is in units of its min-max range, float32 (out,).

    weight: float32 (out, in, 1, 1).
    products: the sum of x xᵀ over the weight's inputs x, float32 (in, in).
    candidates: how many ranges there are; those that are less than LOWEST as wide as min-max are not tried.

    A channel keeps its min-max range where no candidate is better: where it is zero, or holds no numbers.
    """
    parts = weight.cpu().split(rows_at_a_time(weight[0].numel()))
    return torch.cat([_best_ratios(part, products, observer, candidates) for part in parts])


def rows_at_a_time(n_in: int) -> int:
    """Return how many rows of a weight with so many input channels are searched at a time."""
    return max(1, CHUNK // n_in)


def _best_ratios(weight: torch.Tensor, products: torch.Tensor, observer: Observer, candidates: int) -> torch.Tensor:
    ratios = torch.arange(candidates, math.ceil(LOWEST * candidates) - 1, -1) / candidates
    fakes = narrowed(observer, weight, ratios.tolist())
    differences = torch.stack([weight - fake for fake in fakes]).flatten(2).to(products.device)
    errors = _quadratic_form(differences.flatten(0, 1), products).cpu().reshape(len(ratios), -1)
    return torch.where(errors.amin(dim=0).isfinite(), ratios[errors.argmin(dim=0)], 1.0)


def _quadratic_form(rows: torch.Tensor, products: torch.Tensor) -> torch.Tensor:
    """Return x P xᵀ (n,) of each row x (n, in), for a symmetric P (in, in), of which little more than half is read."""
    form, step = torch.zeros(len(rows), device=rows.device), -(-rows.shape[1] // BLOCKS)
    for start in range(0, rows.shape[1], step):
        own = rows[:, start : start + step]
        part = own @ products[start : start + step, start : start + step]
        if start:
            part.addmm_(rows[:, :start], products[:start, start : start + step], alpha=2)
        form += torch.linalg.vecdot(part, own)
    return form
