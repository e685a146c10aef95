"""GPTQ finds codes that make up for each other's errors (Frantar et al. 2022, arXiv 2210.17323).

Input channels are coded one after the other. What a channel loses by rounding is taken off the channels that are still
to come, by as much as their inputs go together. The sum G of x xᵀ over calibration data says how much that is: the
squared error of the output is (w - w_q) G (w - w_q)ᵀ, and each step makes it the least that the channels that are left
allow. Scales are known beforehand, those of blocks too, so the channels can come in any order: those with the largest
inputs come first, while all others can still make up for them.

Two things bring the error down further, at the same size. The scale of each output channel is fitted to its codes; the
scales of its blocks keep their proportions, which are QNN's integers. And sweeps over the input channels give each the
best code, given the codes of all others.
"""

import torch

from hexport.quantization.coded_weight import CodedWeight

DAMPING = 0.01  # times G's mean diagonal, added to the diagonal: weights of inputs that hardly occurred change little
COLUMNS = 32  # so many input channels pass their errors on in one matrix product
SWEEPS = 2


def gptq(weight: torch.Tensor, scales: torch.Tensor, products: torch.Tensor, qmin: int, qmax: int) -> CodedWeight:
    """Code a weight, float32 (out, in, 1, 1), with codes from `qmin` to `qmax`, both included.

    scales: float32 (out,), or (out, blocks, 1, 1). The scales that are returned differ from these by a factor for each
        output channel.
    products: the sum G of x xᵀ over the inputs x, float32 (in, in), all finite.
    """
    n_out, n_in = weight.shape[:2]
    rows = weight.reshape(n_out, n_in).T.contiguous()  # a row per input channel, since these are coded one at a time
    steps = scales.reshape(n_out, -1).repeat_interleave(n_in * n_out // scales.numel(), dim=1).T.contiguous()
    damped = products.clone()
    mean = damped.diagonal().mean()
    damped.diagonal().add_(DAMPING * mean if mean > 0 else 1.0)
    values = _with_feedback(rows, steps, damped, qmin, qmax)
    factors = _fit(rows, values, damped)
    steps, values = steps * factors, values * factors
    for _ in range(SWEEPS):
        _sweep(rows, values, steps, damped, qmin, qmax)
    codes = (values / steps).round_().to(torch.int8).T.reshape(weight.shape).contiguous()
    return CodedWeight(scales * factors.reshape(-1, *(1 for _ in scales.shape[1:])), codes)


def _with_feedback(
    rows: torch.Tensor, steps: torch.Tensor, products: torch.Tensor, qmin: int, qmax: int
) -> torch.Tensor:
    """Return the values (in, out) that GPTQ's codes of `rows` stand for. `steps` has the scale of each, (in, out)."""
    order = products.diagonal().argsort(descending=True, stable=True)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(products[order][:, order]))
    spread = torch.linalg.cholesky(inverse, upper=True)  # row i says how an error of channel i spreads to later ones
    left, steps, values = rows[order], steps[order], torch.empty_like(rows)
    for start in range(0, len(rows), COLUMNS):
        block, errors = left[start : start + COLUMNS], torch.empty_like(left[start : start + COLUMNS])
        end = start + len(block)
        for i, row in enumerate(block):
            own = spread[start + i, start + i : end]
            value = _nearest(row, steps[start + i], qmin, qmax)
            errors[i] = (row - value) / own[0]
            block[i + 1 :].addr_(own[1:], errors[i], alpha=-1)
            values[order[start + i]] = value
        left[end:].addmm_(spread[start:end, end:].T, errors, alpha=-1)
    return values


def _fit(rows: torch.Tensor, values: torch.Tensor, products: torch.Tensor) -> torch.Tensor:
    """Return the factors (out,) of the values that bring the output of each channel nearest to that of `rows`."""
    seen = products @ values
    wanted, found = (seen * rows).sum(dim=0), (seen * values).sum(dim=0)
    return torch.where((wanted > 0) & (found > 0), wanted / found, 1.0)


def _sweep(
    rows: torch.Tensor, values: torch.Tensor, steps: torch.Tensor, products: torch.Tensor, qmin: int, qmax: int
) -> None:
    """Give each input channel in turn the best value beside those of the others: coordinate descent, in place."""
    slopes = products @ (rows - values)
    for start in range(0, len(rows), COLUMNS):
        own, changes = slopes[start : start + COLUMNS], torch.empty_like(slopes[start : start + COLUMNS])
        end = start + len(own)
        for i, slope in enumerate(own):
            row, value = products[start + i], values[start + i]
            changes[i] = _nearest(value + slope / row[start + i], steps[start + i], qmin, qmax) - value
            value += changes[i]
            own[i + 1 :].addr_(row[start + i + 1 : end], changes[i], alpha=-1)
        slopes[end:].addmm_(products[end:, start:end], changes, alpha=-1)


def _nearest(values: torch.Tensor, steps: torch.Tensor, qmin: int, qmax: int) -> torch.Tensor:
    return (values / steps).round_().clamp_(qmin, qmax).mul_(steps)
