"""This module compares the emulator with the fake-quantised decoder, part by part and point by point, on a short text.

Each layer runs on the emulator twice, as a program of its own: behind the emulator's own layers, as in the whole
program, and on the fake-quantised decoder's hidden states. The second run shows where the emulator departs. Its codes
and those of the fake-quantised layer are held against exact values: those of the same coded weights and the same hidden
states, without any rounding of activations inside the layer.
"""

import functools
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from hexport.decoder.float_decoder import FloatDecoder
from hexport.decoder.masks import MASKS
from hexport.decoder.stream import after_prologue, packs, token_inputs
from hexport.decoder.weights import Checkpoint
from hexport.errors import HexportError
from hexport.evaluation.comparison import Comparison, SignalToNoise
from hexport.evaluation.qdq import FakeQuantisedDecoder
from hexport.lowering.decoder_graph import DecoderGraph, hidden_name
from hexport.lowering.shards import Shard
from hexport.lowering.tapped import TappedPart, tapped_part
from hexport.lowering.templates import lower_templates
from hexport.progress import Progress
from hexport.quantization.fake_quantize import FakeQuantisedGraph
from hexport.quantization.quant_attrs import Encoding, QuantAttrs
from hexport.quantization.recipe import EPILOGUE, PROLOGUE, Recipe
from hexport.targets.target import Target

ROUNDING = math.sqrt(1 / 12)  # rms error of codes that are the nearest ones
DEPARTS = 1.5  # times the noise that fake quantisation has, or rounding alone


@dataclass(frozen=True)
class PointNoise:
    """An instance tells the noise of what an op puts out, in codes of its point.

    point: its name within the part, such as `attention.q_rope.mul` in the part `layers.3`. op: the name of the QNN op.
    scale: the value of one code. qdq_noise, emulator_noise: rms of the errors against exact values. emulator_bias: mean
    of the emulator's errors. max_difference, sqnr_db: of the emulator's codes against those of fake quantisation;
    sqnr_db is None where they are equal.
    """

    point: str
    op: str
    scale: float
    qdq_noise: float
    emulator_noise: float
    emulator_bias: float
    max_difference: int
    sqnr_db: float | None

    @property
    def departs(self) -> bool:
        """Tell whether the emulator is noisier than fake quantisation, or than rounding alone, by more than DEPARTS
        times.
        """
        return self.emulator_noise > DEPARTS * max(self.qdq_noise, ROUNDING)


@dataclass(frozen=True)
class PartNoise:
    """An instance tells the noise of the prologue, of a layer (`layers.3`) or of the epilogue, as SQNR in dB of what it
    puts out: hidden states or logits.

    qdq_db and emulator_db are those of the fake-quantised decoder and of the emulator against the float decoder,
    emulator_to_qdq_db that of the emulator against the fake-quantised one; None stands for no noise. `points` are those
    of the part alone, in its order.
    """

    part: str
    qdq_db: float | None
    emulator_db: float | None
    emulator_to_qdq_db: float | None
    points: tuple[PointNoise, ...]


@dataclass(frozen=True)
class LayerComparison:
    """A comparison has the noise of all parts. top1_*: the part of the tokens for which the first choices of two
    decoders are the same.
    """

    tokens: int
    parts: tuple[PartNoise, ...]
    top1_qdq: float
    top1_emulator: float
    top1_emulator_to_qdq: float

    @property
    def first_departure(self) -> tuple[str, PointNoise] | None:
        """Return the first point, behind the name of its part, at which the emulator is noisier than fake quantisation;
        None where it never is.
        """
        return next(((each.part, point) for each in self.parts for point in each.points if point.departs), None)

    def as_json(self) -> dict:
        """Return all figures, and the part and the point of the first departure, or None."""
        first = self.first_departure
        return asdict(self) | {"first_departure": first and {"part": first[0], "point": first[1].point}}


def compare_model(
    checkpoint: Checkpoint, recipe: Recipe, attrs: QuantAttrs, soc: str, tokens: Sequence[int], progress: Progress
) -> LayerComparison:
    """Run `compare_layers` on a checkpoint in the recipe's basis, on the emulator of a SoC. Raises HexportError as it
    does.
    """
    target, n = Target(soc, emulator=True), len(tokens)
    templates = lower_templates(checkpoint.config, recipe, target, n, n, progress)
    return compare_layers(
        DecoderGraph(checkpoint.config, templates, attrs), checkpoint, recipe, target, tokens, progress
    )


def compare_layers(
    graph: DecoderGraph,
    checkpoint: Checkpoint,
    recipe: Recipe,
    target: Target,
    tokens: Sequence[int],
    progress: Progress,
) -> LayerComparison:
    """Compare on as many tokens as the graph's AR length and context length are, 2 or more, read from position 0.

    `target` is an emulator. Raises HexportError for another number of tokens, and where a part is not compiled.
    """
    n = len(tokens)
    if n < 2 or graph.cached or n != graph.templates.ar_len:
        raise HexportError(
            f"comparing layers: {n} tokens, and the graph reads {graph.templates.ar_len}; give that many"
        )
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        decoders = _SideBySide(graph, checkpoint, recipe, tokens, (checkpoint, target, Path(folder), progress))
        parts = [decoders.prologue(tokens)]
        for i in progress.steps(range(graph.config.n_layers), "compare", graph.config.n_layers):
            parts.append(decoders.layer(i))
        last, reference, logits, found = decoders.epilogue()
    pairs = (reference, logits), (reference, found), (logits, found)
    return LayerComparison(n, (*parts, last), *(_agreement(*pair) for pair in pairs))


class _SideBySide:
    """An instance takes tokens part by part through the float decoder, the fake-quantised one and the emulator.

    `build` is what a tapped part is built with. `exact` and `state` are the states of the first two, `emulated` are the
    codes of the emulator's hidden states.
    """

    def __init__(
        self, graph: DecoderGraph, checkpoint: Checkpoint, recipe: Recipe, tokens: Sequence[int], build: tuple
    ):
        self.graph, self.attrs, self.build = graph, graph.attrs, build
        self.exact_decoder = FloatDecoder(checkpoint, len(tokens))
        self.decoder = FakeQuantisedDecoder(checkpoint, graph.attrs, recipe, len(tokens))
        (pack,), window = packs([tokens]), graph.config.sliding_window
        self.exact = after_prologue(self.exact_decoder, pack, window)
        self.state = after_prologue(self.decoder, pack, window)
        self.shared = {name: coded(mask, self.attrs.mask) for name, mask in zip(MASKS, self.state.masks, strict=False)}
        for i, (rope, point) in enumerate(zip(self.state.ropes, self.decoder.rope_points, strict=True)):
            self.shared[f"rope_{i}"] = coded(rope, self.attrs.encoding(point))

    def prologue(self, tokens: Sequence[int]) -> PartNoise:
        part = tapped_part(self.graph, Shard(True, range(0), False), *self.build)
        prologue, inputs = self.decoder.prologue(), token_inputs(tokens)
        given = {"tokens": inputs[0].numpy()}
        points = _point_noises(part, given, prologue, PROLOGUE, functools.partial(prologue, *inputs))
        self.emulated = part(given)[0][hidden_name(0)]
        return self._noise_behind(PROLOGUE, points)

    def layer(self, i: int) -> PartNoise:
        part = tapped_part(self.graph, Shard(False, range(i, i + 1), False), *self.build)
        layer, name = self.decoder.loaded_layer(i), f"layers.{i}"
        run = functools.partial(layer, self.state.hidden, self.state.masks, self.state.ropes)
        points = _point_noises(part, {**self.shared, hidden_name(i): self.entering}, layer.graph, name, run)
        self.emulated = part({**self.shared, hidden_name(i): self.emulated})[0][hidden_name(i + 1)]
        self.exact.hidden, self.state.hidden = self.exact_decoder.layer(i)(self.exact), run()
        return self._noise_behind(name, points)

    def epilogue(self) -> tuple[PartNoise, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the noise, and the three decoders' logits."""
        n, epilogue = self.graph.config.n_layers, self.decoder.epilogue()
        part = tapped_part(self.graph, Shard(False, range(n, n), True), *self.build)
        name, run = hidden_name(n), functools.partial(epilogue, self.state.hidden)
        points = _point_noises(part, {name: self.entering}, epilogue, EPILOGUE, run)
        found = decoded(part({name: self.emulated})[0]["logits"], self.attrs.logits)
        reference, logits = self.exact_decoder.epilogue()(self.exact.hidden), run()
        return PartNoise(EPILOGUE, *_sqnrs(reference, logits, found), points), reference, logits, found

    def _noise_behind(self, name: str, points: tuple[PointNoise, ...]) -> PartNoise:
        """Return the noise of the hidden states behind a part. The fake-quantised ones enter the next part."""
        encoding = self.attrs.encoding(self.decoder.hidden_point)
        self.entering, found = coded(self.state.hidden, encoding), decoded(self.emulated, encoding)
        return PartNoise(name, *_sqnrs(self.exact.hidden, self.state.hidden, found), points)


def coded(values: torch.Tensor, encoding: Encoding) -> np.ndarray:
    """Return the nearest codes, in the type in which a program takes them: uint8 for 8 bits, else uint16."""
    codes = values.double().div(encoding.scale).round().add(encoding.zero_point).clamp(encoding.qmin, encoding.qmax)
    return codes.cpu().numpy().astype(np.uint8 if encoding.bits == 8 else np.uint16)


def decoded(codes: np.ndarray, encoding: Encoding) -> torch.Tensor:
    """Return the values of codes, float64."""
    return torch.from_numpy((codes.astype(np.float64) - encoding.zero_point) * encoding.scale)


def _point_noises(
    part: TappedPart, given: dict[str, np.ndarray], graph: FakeQuantisedGraph, place: str, run: Callable[[], object]
) -> tuple[PointNoise, ...]:
    """Return the noise of the part's points on the inputs `given`; `run` calls the graph on the same ones."""
    encodings = {point: rounding.encoding for point, rounding in graph.points.items()}
    rounded = _values_of_points(graph, run, place)
    for rounding in graph.points.values():
        rounding.encoding = None
    exact = _values_of_points(graph, run, place)
    for point, rounding in graph.points.items():
        rounding.encoding = encodings[point]
    _, emulated = part(given)
    return tuple(
        _noise(point, part.op_of[point], encodings[point], exact[point], rounded[point], emulated[point])
        for point in graph.points
        if point in emulated
    )


def _values_of_points(graph: FakeQuantisedGraph, run: Callable[[], object], place: str) -> dict[str, torch.Tensor]:
    """Return the values of each point where they are rounded first, float64 (tokens, features)."""
    seen: dict[str, torch.Tensor] = {}

    def see(point: str, values: torch.Tensor) -> None:
        if values.numel():  # the empty caches may be of the point that goes into them
            seen.setdefault(point, values)

    hooks = [
        rounding.register_forward_hook(lambda module, inputs, values, point=point: see(point, values))
        for point, rounding in graph.points.items()
    ]
    run()
    for hook in hooks:
        hook.remove()
    return {point: _rows(values, place) for point, values in seen.items()}


def _rows(values: torch.Tensor, place: str) -> torch.Tensor:
    """Turn (1, n, features), (1, heads, n, features) or, of a convolution, (1, features, 1, n) into float64 (n,
    features). In the prologue, four dimensions are (1, n, 1, features).
    """
    if place == PROLOGUE:
        return values.flatten(0, -2).double()
    if values.dim() == 4:
        convolved = values.shape[2] == 1
        values = values[:, :, 0].transpose(1, 2) if convolved else values.transpose(1, 2).flatten(2)
    return values[0].double()


def _noise(
    point: str, op: str, encoding: Encoding, exact: torch.Tensor, rounded: torch.Tensor, codes: np.ndarray
) -> PointNoise:
    found = decoded(codes, encoding)
    errors, difference = (found - exact) / encoding.scale, (found - rounded) / encoding.scale
    return PointNoise(
        point=point,
        op=op,
        scale=encoding.scale,
        qdq_noise=_rms((rounded - exact) / encoding.scale),
        emulator_noise=_rms(errors),
        emulator_bias=float(errors.mean()),
        max_difference=int(difference.abs().max().round()),
        sqnr_db=_sqnr_db(rounded, found),
    )


def _rms(errors: torch.Tensor) -> float:
    return float(errors.square().mean().sqrt())


def _sqnrs(exact: torch.Tensor, quantised: torch.Tensor, emulated: torch.Tensor) -> list[float | None]:
    """Return the SQNR of the quantised and of the emulated values against exact ones, and of the emulated against the
    quantised.
    """
    return [_sqnr_db(*pair) for pair in ((exact, quantised), (exact, emulated), (quantised, emulated))]


def _sqnr_db(reference: torch.Tensor, values: torch.Tensor) -> float | None:
    against = SignalToNoise()
    against.add(reference, values)
    return against.db


def _agreement(logits: torch.Tensor, others: torch.Tensor) -> float:
    against = Comparison()
    against.add(*(each.reshape(-1, each.shape[-1]) for each in (logits, others)))
    return against.agreeing / against.rows
