"""This module searches a scale for each block of a weight whose codes make up for each other's errors (GPTQ).

QNN holds the scale of a block as an integer of 1 to 16 times that of its output channel (LPBQ). For each range of a
channel that is tried (SeqMSE), each block gets the integer with which its own part of the output errs least. What the
errors of different blocks do to each other is left to GPTQ.
"""

import math

import torch
from executorch.backends.qualcomm.quantizer.observers.per_block_param_observer import PerBlockParamObserver

from hexport.quantization.seq_mse import LOWEST, rows_at_a_time
from hexport.quantization.weights import weight_encoding


def block_scales(
    weight: torch.Tensor, products: torch.Tensor, observer: PerBlockParamObserver, candidates: int
) -> torch.Tensor:
    """Return scales, float32 (out, blocks, 1, 1), of a weight, float32 (out, in, 1, 1).

    `products` is the sum of x xᵀ over the weight's inputs x, float32 (in, in). In each output channel, the block with
    the largest weight has the integer 16, and its range is one of `candidates`, evenly spaced up to min-max. A channel
    keeps its min-max ranges where no candidate is better.
    """
    width = observer.block_size[1]
    own = torch.stack([products[i : i + width, i : i + width] for i in range(0, len(products), width)])
    parts = weight.split(rows_at_a_time(weight[0].numel()))
    return torch.cat([_block_scales(part, own, observer, candidates) for part in parts])


def _block_scales(
    weight: torch.Tensor, products: torch.Tensor, observer: PerBlockParamObserver, candidates: int
) -> torch.Tensor:
    """Return the scales of some rows of a weight. `products` are of each block's inputs, (blocks, width, width)."""
    scales, _ = weight_encoding(observer, weight)
    n_out, shape = len(weight), scales.shape
    best = scales.reshape(n_out, -1).clone()
    blocks = weight.reshape(n_out, len(products), -1).transpose(0, 1).contiguous()  # (blocks, out, width)
    widest = blocks.abs().amax(dim=2).argmax(dim=0)
    is_widest = torch.zeros(len(products), n_out, dtype=torch.bool).scatter_(0, widest[None], True)
    units, least = best.amax(dim=1) / observer.num_steps, torch.full((n_out,), torch.inf)
    for candidate in range(candidates, math.ceil(LOWEST * candidates) - 1, -1):
        unit = units * (candidate / candidates)
        errors = []
        for step in range(1, observer.num_steps + 1):
            scale = (unit * step)[:, None]
            codes = (blocks / scale).round_().clamp_(observer.quant_min, observer.quant_max)
            lost = codes.mul_(scale).sub_(blocks)
            error = torch.linalg.vecdot(lost @ products, lost)
            errors.append(error if step == observer.num_steps else error.masked_fill_(is_widest, torch.inf))
        error, step = torch.stack(errors).min(dim=0)
        total = error.sum(dim=0)
        better = total < least
        least = torch.where(better, total, least)
        best = torch.where(better[:, None], unit[:, None] * (step.T + 1), best)
    return best.reshape(shape)
