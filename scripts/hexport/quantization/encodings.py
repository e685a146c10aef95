"""This module finds the encodings of points that are known whatever the data, and makes others fit each other."""

import re
from collections.abc import Mapping

import torch
from torch import nn

from hexport.decoder.config import DecoderConfig
from hexport.decoder.masks import ATTEND, MASKED, MASKS
from hexport.decoder.rope import TABLES
from hexport.quantization.prepared import Observer, centred_encoding, encoding_of
from hexport.quantization.quant_attrs import Encoding

# Rows reach from -1 to 1, in steps of 1/127 around the code 128. In 16 bits, every 256th code is one of these.
ROW_LIMITS = {
    "prologue.embedding.embedding": (-128 / 127, 1.0),
    "prologue.embedding.embedding.for_mul": (-128 / 127, (127 + 255 / 256) / 127),
}


def known_or_observed(point: str, observer: Observer, config: DecoderConfig) -> Encoding:
    """Return the encoding of a point: from its known range if it has one, and else from what its observer saw.

    Ranges are known of masks, of cosines and sines, and of embedding rows that are multiplied with their scales.
    `point` is a full name, such as `prologue.index_1`.
    """
    if point in MASKS:
        limits = MASKED, ATTEND
    elif config.row_scales and point in ROW_LIMITS:
        limits = ROW_LIMITS[point]
    elif match := re.fullmatch(r"prologue\.index(?:_(\d+))?", point):  # first come the tables of the first rope
        amplitude = config.ropes[int(match[1] or 0) // len(TABLES)].attention_factor
        limits = -amplitude, amplitude
    else:
        return encoding_of(observer)
    observer.min_val, observer.max_val = map(torch.tensor, limits)
    return encoding_of(observer)


def observe_table(points: Mapping[str, Observer], prologue: nn.Module, place: str = "") -> None:
    """Let the observers of embedding rows and of their scales see the whole table, as they would one without scales.

    Otherwise they would see only the rows of the samples' tokens. `place` stands before the names of the prologue's
    points: it is empty in the prologue's own graph, and `prologue.` in that of the whole decoder.
    """
    scales = prologue.row_scale.weight
    for point, values in (("mul", prologue.embedding.weight * scales), ("row_scale.embedding", scales)):
        observer = points[place + point]
        observer.min_val, observer.max_val = torch.tensor(torch.inf), torch.tensor(-torch.inf)
        observer(values)


def layer_encodings(points: dict[str, Observer], k: str, v: str) -> dict[str, Encoding]:
    """Return the encodings of a layer's points. `k` and `v` name the points that the layer adds to its caches.

    The HTP multiplies with 16-bit keys and values in signed codes around 0. It reads the caches as they are where these
    are coded around the middle of the unsigned codes, in the same scale. From any other encoding it converts, and
    rounds depending on where a token lies among the columns: answers would then depend on the AR length. With 8 bits,
    caches and products have one encoding anyway.
    """
    if encoding_of(points[k]).bits == 8:
        return {point: encoding_of(o) for point, o in points.items()}
    # The observer of a product takes min-max; those on the way there may have taken something else.
    operands = [observer for point, observer in points.items() if point.endswith(".for_matmul")]
    ranges = {_range(o): o for o in operands} | {_range(points[p]): o for p, o in zip((k, v), operands, strict=True)}
    for observer in points.values():
        if observer.quant_min == 0 and (operand := ranges.get(_range(observer))):
            observer.min_val, observer.max_val = operand.min_val, operand.max_val
    cached = [_range(operand) for operand in operands]
    return {
        point: centred_encoding(o) if o.quant_min == 0 and _range(o) in cached else encoding_of(o)
        for point, o in points.items()
    }


def _range(observer: Observer) -> tuple[float, float]:
    return float(observer.min_val), float(observer.max_val)
