"""This module encodes weights: a projection's weight has scales per output channel or per block of its input channels.

Block scales are what QNN's block-wise expansion (LPBQ) can hold: a scale per output channel times an integer of 1 to 16
per block. The codes are made with these scales, so that the HTP reads back the very weights that were evaluated.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from executorch.backends.qualcomm.quantizer.observers.per_block_param_observer import PerBlockParamObserver
from executorch.backends.qualcomm.quantizer.observers.per_channel_param_observer import PerChannelParamObserver
from torchao.quantization.pt2e import (
    AffineQuantizedObserverBase,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    UniformQuantizationObserverBase,
)

from hexport.errors import HexportError
from hexport.quantization.coded_weight import CodedWeight
from hexport.quantization.observers import MseObserver, PercentileObserver
from hexport.quantization.quant_attrs import Encoding

Observer = UniformQuantizationObserverBase | AffineQuantizedObserverBase
CHUNK = 1 << 24  # so many values are quantised at a time, because they pass through several float copies


class PerTensorParamObserver(PerChannelParamObserver):
    """This observer gives all output channels one scale.

    QNN holds this scale once per channel, because heads are cut out of a weight by channels.
    """

    def calculate_qparams(self):
        """Return the largest of the channels' scales for each of them, and their zero points."""
        scales, zero_points = super().calculate_qparams()
        return scales.amax().expand_as(scales), zero_points


# Constants in the decoder's code are quantised by observers of activations.
PER_TENSOR = (MinMaxObserver, MovingAverageMinMaxObserver, PercentileObserver, MseObserver)
OBSERVERS = (*PER_TENSOR, PerChannelParamObserver, PerTensorParamObserver, PerBlockParamObserver)


@dataclass(frozen=True)
class ParameterCoding:
    """A parameter coding says how a parameter is quantised, as plain data from which its observer can be made anew.

    observer: the name of the observer's class.
    dtype, qscheme: their names in torch. Blocks have no qscheme, so that it is None.
    qmin, qmax: the lowest and the highest code.
    eps: the least scale.
    block_size: how many values a block has in each dimension; None without blocks.
    """

    observer: str
    dtype: str
    qscheme: str | None
    qmin: int
    qmax: int
    eps: float
    block_size: tuple[int, ...] | None


def coding_of(observer: Observer) -> ParameterCoding:
    """Return what an observer of parameters does, whatever it has observed.

    Raises HexportError for an observer of another kind.
    """
    if type(observer) not in OBSERVERS:
        raise HexportError(f"weights: {type(observer).__name__} is no observer of parameters that hexport knows")
    in_blocks = is_in_blocks(observer)
    return ParameterCoding(
        observer=type(observer).__name__,
        dtype=str(observer.dtype).removeprefix("torch."),
        qscheme=None if in_blocks else str(observer.qscheme).removeprefix("torch."),
        qmin=observer.quant_min,
        qmax=observer.quant_max,
        eps=float(observer.eps),
        block_size=tuple(observer.block_size) if in_blocks else None,
    )


def observer_for(coding: ParameterCoding) -> Observer:
    """Return a new observer of this coding, which has observed nothing."""
    kind = {observer.__name__: observer for observer in OBSERVERS}[coding.observer]
    options = {"dtype": getattr(torch, coding.dtype), "quant_min": coding.qmin, "quant_max": coding.qmax}
    if coding.block_size is not None:
        return kind(block_size=coding.block_size, eps=coding.eps, **options)
    return kind(qscheme=getattr(torch, coding.qscheme), eps=coding.eps, **options)


def is_in_blocks(observer: Observer) -> bool:
    """Return whether each output channel has several scales."""
    return isinstance(observer, PerBlockParamObserver)


def weight_encoding(
    observer: Observer, weight: torch.Tensor, ratios: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the scales and zero points of a parameter, as its observer's class computes them.

    Of a projection (out, in, 1, 1) they are float32 and int32 (out,), or (out, blocks, 1, 1). `ratios` (out,) narrow
    the range of each output channel, and so of all its blocks.
    """
    limits = _observe(observer, weight)
    if ratios is not None:
        limits = (limit * ratios.reshape(-1, *(1 for _ in limit.shape[1:])) for limit in limits)
    scales, zero_points = _encoding(observer, *limits)
    if is_in_blocks(observer):
        scales = _on_grid(observer, weight, scales)
    return scales, zero_points


def encoding_of_parameter(observer: Observer, parameter: torch.Tensor) -> Encoding:
    """Return the encoding of a parameter that is quantised per tensor."""
    scale, zero_point = weight_encoding(observer, parameter)
    return Encoding(float(scale), int(zero_point), observer.quant_min, observer.quant_max)


def narrowed(observer: Observer, weight: torch.Tensor, ratios: Iterable[float]) -> Iterator[torch.Tensor]:
    """Yield, for each ratio, what `fake_quantised` gives of the weight with this ratio in all channels.

    The weight is observed once. A caller that passes few rows at a time keeps them in the processor's cache.
    """
    limits = _observe(observer, weight)
    for ratio in ratios:
        scales, zero_points = _encoding(observer, *(limit * ratio for limit in limits))
        if is_in_blocks(observer):
            is_below, _, fakes = _below_and_above(observer, weight, scales, _units(observer, scales))
            yield torch.where(is_below[:, None], *fakes).reshape(weight.shape)
        else:
            yield _fake_quantise(observer, weight, scales, zero_points)


def fake_quantised(observer: Observer, weight: torch.Tensor, coded: CodedWeight | None = None) -> torch.Tensor:
    """Return the values that the HTP computes with in the place of a projection's weight, float32 (out, in, 1, 1).

    The weight is coded by its min-max ranges, unless `coded` says how.
    """
    if coded is None:
        return _fake_quantise(observer, weight, *weight_encoding(observer, weight))
    if coded.codes is not None:
        return coded.values()
    return _fake_quantise(observer, weight, coded.scales, torch.zeros_like(coded.scales, dtype=torch.int32))


def codes(observer: Observer, weight: torch.Tensor, scales: torch.Tensor, zero_points: torch.Tensor) -> torch.Tensor:
    """Return the int8 codes of a projection's weight, in its shape, for scales and zero points of `weight_encoding`."""
    rows = weight.reshape(scales.numel(), -1)
    step = max(1, CHUNK // rows.shape[1])
    parts = zip(*(part.split(step) for part in (rows, scales.reshape(-1), zero_points.reshape(-1))), strict=True)
    limits = observer.quant_min, observer.quant_max, torch.int8
    quantise = torch.ops.quantized_decomposed.quantize_per_channel
    return torch.cat([quantise(*part, 0, *limits) for part in parts]).reshape(weight.shape)


def channel_scales(observer: Observer, scales: torch.Tensor) -> torch.Tensor:
    """Return the scale of each output channel (out,). The scales of its blocks are multiples of it."""
    if not is_in_blocks(observer):
        return scales
    return scales.reshape(scales.shape[0], -1).amax(dim=1) / observer.num_steps


def _observe(observer: Observer, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Forget what was observed, observe `weight`, and return its limits."""
    if is_in_blocks(observer):
        for limit in ("min_val", "max_val"):
            if hasattr(observer, limit):
                delattr(observer, limit)
        observer.calibrated = False
    elif isinstance(observer, PerChannelParamObserver):
        observer.reset_min_max_vals()
        observer.calibrated = False
    else:
        observer.min_val, observer.max_val = torch.tensor(torch.inf), torch.tensor(-torch.inf)
    observer(weight)
    return observer.min_val, observer.max_val


def _encoding(observer: Observer, least: torch.Tensor, largest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the observer's class makes of these limits. An instance may be made to hand out tags instead."""
    observer.min_val, observer.max_val = least, largest
    scales, zero_points = type(observer).calculate_qparams(observer)
    return scales, zero_points.to(torch.int32)


def _on_grid(observer: PerBlockParamObserver, weight: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Return the multiple of the channel's scale next to each block's, below or above, whichever loses less."""
    step = max(1, CHUNK // weight[0].numel())
    parts = zip(*(part.split(step) for part in (weight, scales, _units(observer, scales))), strict=True)
    nearest = []
    for part in parts:
        is_below, grids, _ = _below_and_above(observer, *part)
        nearest.append(torch.where(is_below.reshape(grids[0].shape), *grids))
    return torch.cat(nearest)


def _units(observer: PerBlockParamObserver, scales: torch.Tensor) -> torch.Tensor:
    """Return the scale of each output channel, in as many dimensions as the scales of its blocks have."""
    return channel_scales(observer, scales).reshape(-1, *(1 for _ in scales.shape[1:]))


def _below_and_above(
    observer: PerBlockParamObserver, weight: torch.Tensor, scales: torch.Tensor, units: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """Compare two scales of each block: the multiples of `units` next below and next above its scale.

    Return whether the block loses less with the one below; both multiples, in the shape of `scales`; and with each, the
    fake-quantised weight as rows of blocks.
    """
    steps, rows = scales / units, weight.reshape(scales.numel(), -1)
    grids = [rounded(steps).clamp(1, observer.num_steps) * units for rounded in (torch.floor, torch.ceil)]
    fakes = [_fake_rows(observer, rows, grid.reshape(-1, 1).float()) for grid in grids]
    lost_below, lost_above = ((fake - rows).square_().sum(dim=1) for fake in fakes)
    return lost_below < lost_above, grids, fakes


def _fake_rows(observer: Observer, rows: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Compute what `torch.fake_quantize_per_channel_affine` does around 0, whose loop over short rows is slower."""
    return (rows * (1 / scales)).round_().clamp_(observer.quant_min, observer.quant_max).mul_(scales)


def _fake_quantise(
    observer: Observer, weight: torch.Tensor, scales: torch.Tensor, zero_points: torch.Tensor
) -> torch.Tensor:
    """Fake-quantise a weight. Rows of the reshaped weight are channels, or blocks of channels."""
    rows, fake = weight.reshape(scales.numel(), -1), torch.empty_like(weight)
    step = max(1, CHUNK // rows.shape[1])
    tensors = fake.reshape(rows.shape), rows, scales.reshape(-1).float(), zero_points.reshape(-1)
    for into, *part in zip(*(tensor.split(step) for tensor in tensors), strict=True):
        into.copy_(torch.fake_quantize_per_channel_affine(*part, 0, observer.quant_min, observer.quant_max))
    return fake
