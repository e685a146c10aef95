"""This module measures sensitivity: how much nearer to the float model's logits a quantised model comes if one part
alone gets more bits.

Each variant leaves the quantised model at its layer, and passes the layers behind it as they are. The variants of all
layers are on their way side by side, so they cost what their tokens cost in half of the layers.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch

from hexport.decoder.sizes import sizes_of
from hexport.decoder.stream import Pack, State, after_prologue, packs, whole_logits
from hexport.decoder.weights import Checkpoint
from hexport.errors import HexportError
from hexport.evaluation.comparison import SignalToNoise
from hexport.evaluation.fp import fp_logits
from hexport.evaluation.qdq import FakeQuantisedDecoder
from hexport.progress import Progress
from hexport.quantization.calibration import calibrate
from hexport.quantization.prepared import set_parameters, weight_observer
from hexport.quantization.quant_attrs import QuantAttrs
from hexport.quantization.recipe import EPILOGUE, LAYER_PROJECTIONS, OUTPUT_PROJECTION, Override, Recipe
from hexport.quantization.weights import fake_quantised

TOKENS = 128  # so many of the calibration data; the variants of a layer then fill one call
EIGHT_BITS = {"weight_bits": 8, "granularity": "per_channel"}
WORTH_DB = 0.1  # gains below are not suggested
KV = "kv"
BASE = "", ""


@dataclass(frozen=True)
class Gain:
    """A gain tells what the SQNR of the logits gains, in dB, by 8 bits for one projection, and how many bytes the
    weights grow by.

    place: a layer's number, or epilogue.
    """

    place: str
    projection: str
    gain_db: float
    extra_bytes: int


@dataclass(frozen=True)
class Sensitivity:
    """An instance tells the sensitivity of a quantised model. sqnr_db: of its logits, on `tokens` tokens. weights: best
    gains first.

    kv: gains by 16-bit keys and values in one layer alone, by layer; kv_in_all_layers: the gain in all layers. There
    are none where keys and values have 16 bits.
    """

    sqnr_db: float
    tokens: int
    weights: list[Gain]
    kv: list[float] = field(default_factory=list)
    kv_in_all_layers: float | None = None


class _Decoder(FakeQuantisedDecoder):
    """A decoder that takes over from another one at any part, and whose weights get 8 bits one at a time."""

    def behind(self, other: FakeQuantisedDecoder) -> "_Decoder":
        """Have the next part called with what the last part of `other` has put out."""
        self.hidden_point, self.rope_points = other.hidden_point, other.rope_points
        return self

    def with_8_bits(self, i: int, layer: Callable, state: State) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the projections of layer `i`, which is loaded, that have fewer bits, and the next hidden states with 8
        bits.
        """
        narrow = [name for name in LAYER_PROJECTIONS if self.recipe.at(str(i), name).weight_bits < 8]
        prepared, parameters = self.layers[self.signature(i)].graph.prepared, self.checkpoint.layer_parameters(i)
        for projection in narrow:
            name = f"{projection}.weight"
            own, precision = prepared.module.get_parameter(name), self.recipe.at(str(i), projection)
            wide = fake_quantised(weight_observer(replace(precision, **EIGHT_BITS)), parameters[name])
            set_parameters(prepared, {name: wide.to(own.device)})
            yield projection, layer(state)
            set_parameters(prepared, {name: own})


def sensitivity(
    checkpoint: Checkpoint, attrs: QuantAttrs, recipe: Recipe, samples: list[list[int]], progress: Progress
) -> Sensitivity:
    """Try 8-bit weights for each projection that has fewer bits, and 16-bit keys and values for each layer.

    Where `v_proj` itself puts out the 8 bits that are cached, 16-bit values would need another `v_proj`: they are not
    tried. `attrs` are those of the recipe on `samples`, of which the first TOKENS tokens are tried on. 8-bit weights
    get their min-max ranges, and 16-bit keys and values those that a calibration on all samples gives them. Raises
    HexportError where logits are not finite.
    """
    inputs, config = list(_first_tokens(samples)), checkpoint.config
    context_len = max(map(len, inputs))
    wide_kv = None
    values = [recipe.at(str(i), "attention.v_proj") for i in range(config.n_layers)]
    if recipe.kv_bits < 16 and all(precision.activation_bits == 16 for precision in values):
        wide = replace(recipe, kv_bits=16)
        wide_attrs = calibrate(checkpoint, samples, wide, progress, attrs.weights)
        wide_kv = _Decoder(checkpoint, wide_attrs, wide, context_len)
    base = _Decoder(checkpoint, attrs, recipe, context_len)
    reference = torch.cat(list(fp_logits(checkpoint, context_len, inputs, progress)))
    with torch.no_grad(), progress.stage("sensitivity"):
        [pack] = packs(inputs)
        logits = _logits(base, wide_kv, pack, progress)
        sqnr_db = {variant: _sqnr_db(reference, of_variant) for variant, of_variant in logits}
    base_db = sqnr_db.pop(BASE)
    gains = {variant: db - base_db for variant, db in sqnr_db.items()}
    shapes = sizes_of(config).projections
    weights = [
        Gain(place, part, gain, math.prod(shapes[part]) * (8 - recipe.at(place, part).weight_bits) // 8)
        for (place, part), gain in gains.items()
        if part != KV
    ]
    return Sensitivity(
        base_db,
        len(reference),
        weights=sorted(weights, key=lambda gain: -gain.gain_db),
        kv=[gain for (_, part), gain in gains.items() if part == KV],
        kv_in_all_layers=wide_kv and _sqnr_db(reference, whole_logits(wide_kv, config, inputs, progress)) - base_db,
    )


def _first_tokens(samples: list[list[int]]) -> Iterator[list[int]]:
    left = TOKENS
    for sample in samples:
        if left:
            yield sample[:left]
            left -= min(left, len(sample))


def _logits(
    base: _Decoder, wide_kv: _Decoder | None, pack: Pack, progress: Progress
) -> Iterator[tuple[tuple[str, str], torch.Tensor]]:
    """Yield the logits (tokens, vocab) of the base model and of each variant, which is named by its
    place and its part.
    """
    config = base.checkpoint.config
    state, n_layers = after_prologue(base, pack, config.sliding_window), config.n_layers
    on_their_way: list[tuple[list[tuple[str, str]], State]] = [([BASE], state)]
    for i in progress.steps(range(n_layers), "sensitivity", n_layers):
        own = {} if wide_kv is None else {(str(i), KV): wide_kv.behind(base).layer(i)(state)}
        layer = base.layer(i)
        own |= {(str(i), name): variant for name, variant in base.with_8_bits(i, layer, state)}
        for _, packed in on_their_way:
            packed.hidden = layer(packed)
        if own:
            on_their_way.append((list(own), _side_by_side(state, list(own.values()))))
    if base.recipe.at(EPILOGUE, OUTPUT_PROJECTION).weight_bits < 8:
        override = Override(points=OUTPUT_PROJECTION, changes=tuple(EIGHT_BITS.items()))
        recipe = replace(base.recipe, overrides=(*base.recipe.overrides, override))
        wide = _Decoder(base.checkpoint, replace(base.attrs, weights={}), recipe, base.context_len).behind(base)
        yield (EPILOGUE, OUTPUT_PROJECTION), wide.epilogue()(state.hidden)[0]
    epilogue = base.epilogue()
    for names, packed in on_their_way:
        for name, hidden in zip(names, packed.hidden.chunk(len(names), dim=1), strict=True):
            yield name, epilogue(hidden)[0]


def _side_by_side(state: State, hidden: list[torch.Tensor]) -> State:
    """Return variants of a state's hidden states, as further sequences beside it."""
    n = len(hidden)
    ropes = [rope.repeat(1, 1, n, 1) for rope in state.ropes]
    return State(torch.cat(hidden, dim=1), ropes, state.lengths * n, state.window)


def _sqnr_db(reference: torch.Tensor, logits: torch.Tensor) -> float:
    comparison = SignalToNoise()
    comparison.add(reference, logits)
    if comparison.db is None:
        raise HexportError("sensitivity: logits are not finite; check the weights for NaN")
    return comparison.db


def overrides_yaml(found: Sensitivity, model: str, recipe: str) -> str:
    """Return what is worth more bits, as the content of a recipe in config.yaml that is based on this one.

    An override in it reads `{layers: "3", points: attention.v_proj, weight_bits: 8, granularity: per_channel}`, with
    the gain in dB and the growth in MB behind it as a comment.
    """
    worth, narrow = [gain for gain in found.weights if gain.gain_db >= WORTH_DB], len(found.weights)
    lines = [
        f"# {model}, recipe {recipe}: the SQNR of the logits is {found.sqnr_db:.2f} dB, on {found.tokens} tokens.",
        f"# {len(worth)} of {narrow} weights with fewer than 8 bits gain {WORTH_DB} dB or more, each of them alone.",
        f"# For config.yaml: recipes: {{<name>: {{based_on: {recipe}, <what follows>}}}}; see docs/mixed_precision.md.",
    ]
    if found.kv_in_all_layers is not None and found.kv_in_all_layers >= WORTH_DB:
        lines.append(f"kv_bits: 16  # {found.kv_in_all_layers:+.2f} dB; caches twice as large, and V73 or newer")
    lines.append("overrides:" if worth else "overrides: []")
    for gain in worth:
        layers = f'"{gain.place}"' if gain.place.isdecimal() else gain.place
        changes = ", ".join(f"{key}: {value}" for key, value in EIGHT_BITS.items())
        size = f"{gain.extra_bytes / 1e6:+.1f} MB"
        where = f"layers: {layers}, points: {gain.projection}"
        lines.append(f"  - {{{where}, {changes}}}  # {gain.gain_db:+.2f} dB, {size}")
    return "\n".join(lines) + "\n"
