"""Damage is what a way to code a weight costs in the KL divergence of the logits, in nats per token.

A weight that is off by D changes what its projection puts out for a token, of input x, by D x. To second order, this
costs half the mean of (g . D x)^2, where g is the gradient of the log-probability of a label that the model draws. This
is the Fisher information, as in WoodFisher (arXiv 2004.14340), token by token. So one forward and one backward pass
serve all ways to code all weights. Errors of keys and values reach later tokens, where they may add up; for these, the
product is taken behind the whole layer, which is computed once more with the coded weight. For the output projection,
the divergence itself is measured. Codes are found on one part of the calibration data, and judged on another one.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from hexport.code_digest import code_digest
from hexport.decoder.device import device
from hexport.decoder.kept_names import identity, kept_name
from hexport.decoder.layer_kinds import LayerKind
from hexport.decoder.model import UncachedLayer
from hexport.decoder.stream import CHUNK, LEAST_ROWS, State
from hexport.decoder.weights import Checkpoint, load_epilogue, load_layer
from hexport.errors import HexportError
from hexport.evaluation.comparison import Comparison
from hexport.fitting.choices import TABLE_UNIT, Unit, coding_name
from hexport.fitting.gradients import hidden_gradients, projection_gradients
from hexport.progress import Progress
from hexport.provenance import write_json
from hexport.quantization.coded_weight import CodedWeight
from hexport.quantization.prepared import weight_observer
from hexport.quantization.recipe import EPILOGUE, LAYER_PROJECTIONS, OUTPUT_PROJECTION, PROLOGUE, Precision
from hexport.quantization.weight_inputs import observe_layer, pass_layer, states_of
from hexport.quantization.weight_search import coded_head, coded_weight
from hexport.quantization.weights import fake_quantised
from hexport.quantization.weights_file import full_name

LAYERS = "damage"  # the name of a part in the progress
RANGES = 4  # the most that SeqMSE tries here
REACHING = ("attention.k_proj", "attention.v_proj")  # errors of these reach later tokens
Candidates = Mapping[Unit, list[Precision]]
Damages = dict[Unit, dict[Precision, float]]


def damages(
    checkpoint: Checkpoint,
    candidates: Candidates,
    coding: list[list[int]],
    judging: list[list[int]],
    folder: Path,
    progress: Progress,
) -> Damages:
    """Return the damage of each candidate of each unit, in nats per token, for a checkpoint without row scales.

    Samples of token ids in `coding` find the codes, and those in `judging` tell what they cost; each is read from
    position 0. What is known of a layer is written to `folder` at once, and not measured again. Raises HexportError
    where weights or hidden states are not finite.
    """
    files = _files(checkpoint, candidates, coding, judging, folder)
    missing = {place: file for place, file in files.items() if not file.is_file()}
    if len(missing) < len(files):
        progress.say(f"damage: {len(files) - len(missing)} of {len(files)} places found in {folder}")
    if missing:
        with progress.stage("damage"):
            _measure(checkpoint, candidates, coding, judging, missing, progress)
    known = {place: json.loads(file.read_bytes()) for place, file in files.items()}
    return {
        (place, name): {precision: known[place][name][_key(precision)] for precision in precisions}
        for (place, name), precisions in candidates.items()
    }


def _measure(
    checkpoint: Checkpoint, candidates: Candidates, coding, judging, missing: dict[str, Path], progress: Progress
) -> None:
    config = checkpoint.config
    judged = states_of(checkpoint, judging, progress, "damage: embeddings")
    embedded = [state.hidden for state in judged]
    gradients = hidden_gradients(checkpoint, judged, progress)
    for state, hidden in zip(judged, embedded, strict=True):
        state.hidden = hidden
    if PROLOGUE in missing:
        found = {precision: _table_damage(embedded, gradients[0], precision) for precision in candidates[TABLE_UNIT]}
        _write(missing[PROLOGUE], PROLOGUE, {TABLE_UNIT[1]: found})
    coded = states_of(checkpoint, coding, progress, "damage: embeddings of the codes")
    for i in progress.steps(range(config.n_layers), LAYERS, config.n_layers):
        place, kind, layer = str(i), config.layers[i], load_layer(checkpoint, i, UncachedLayer).to(device())
        if place in missing:
            with torch.no_grad():
                behind, products = observe_layer(layer, kind, coded, LAYER_PROJECTIONS)
            judge = _LayerJudge(layer, kind, judged, gradients[i + 1])
            found = {
                name: {
                    each: judge.damage(name, _error(full_name(place, name), layer, name, products[name], each))
                    for each in candidates[place, name]
                }
                for name in LAYER_PROJECTIONS
            }
            _write(missing[place], place, found)
        with torch.no_grad():
            if place not in missing:
                behind = pass_layer(layer, kind, coded)
            for states, of_states in ((coded, behind), (judged, pass_layer(layer, kind, judged))):
                for state, hidden in zip(states, of_states, strict=True):
                    state.hidden = hidden
    if EPILOGUE in missing:
        precisions = candidates[EPILOGUE, OUTPUT_PROJECTION]
        with torch.no_grad():
            found = {each: _head_damage(checkpoint, coded, judged, each, progress) for each in precisions}
        _write(missing[EPILOGUE], EPILOGUE, {OUTPUT_PROJECTION: found})


def _error(
    name: str, layer: UncachedLayer, projection: str, products: torch.Tensor, precision: Precision
) -> torch.Tensor:
    """Return what coding changes a weight by, float32 (out, in, 1, 1). `name` is its full name, for messages."""
    weight, precision = layer.get_submodule(projection).weight, _quick(precision)
    with torch.no_grad():
        coded = coded_weight(name, weight, products, precision) if precision.is_searched else None
        return _fake(weight.cpu(), precision, coded).to(weight.device) - weight


def _quick(precision: Precision) -> Precision:
    """Return a precision with fewer ranges to try, which tells ways to code a weight apart in a fifth of the time."""
    return replace(precision, seq_mse=min(precision.seq_mse, RANGES))


def _fake(weight: torch.Tensor, precision: Precision, coded: CodedWeight | None) -> torch.Tensor:
    return fake_quantised(weight_observer(precision), weight, coded)


class _LayerJudge:
    """This judge measures the damage of errors in the weights of a layer.

    It takes samples before the layer, and the gradients of their hidden states behind it.
    """

    def __init__(self, layer: UncachedLayer, kind: LayerKind, states: list[State], gradients: list[torch.Tensor]):
        self.layer, self.kind, self.states = layer, kind, states
        self.seen = projection_gradients(layer, kind, states, gradients)
        with torch.no_grad():
            self.behind = torch.cat(pass_layer(layer, kind, states), dim=1)[0]
        self.gradient = torch.cat(gradients, dim=1)[0]

    def damage(self, projection: str, error: torch.Tensor) -> float:
        """Return the damage of an error (out, in, 1, 1) of a projection's weight."""
        with torch.no_grad():
            if projection in REACHING:
                return _damage((self._behind_with(projection, error) - self.behind) * self.gradient)
            x, gradient = self.seen[projection]
            return _damage(((error[:, :, 0, 0] @ x) * gradient).T)

    def _behind_with(self, projection: str, error: torch.Tensor) -> torch.Tensor:
        module = self.layer.get_submodule(projection)
        own, module.weight = module.weight, nn.Parameter(module.weight + error, requires_grad=False)
        behind = torch.cat(pass_layer(self.layer, self.kind, self.states), dim=1)[0]
        module.weight = own
        return behind


def _damage(products: torch.Tensor) -> float:
    """Return the damage, given products (tokens, features) of errors and gradients."""
    return float(products.sum(dim=1).square().mean()) / 2


def _table_damage(embedded: list[torch.Tensor], gradients: list[torch.Tensor], precision: Precision) -> float:
    """Return the damage of rows (1, n, hidden_size) with a scale each; with 16 bits, there is none.

    16 bits without scales are what all hidden states have.
    """
    if precision.activation_bits == 16:
        return 0.0
    rows, gradient = (torch.cat(parts, dim=1)[0] for parts in (embedded, gradients))
    steps = rows.abs().amax(dim=1, keepdim=True) / 127
    errors = torch.where(steps > 0, (rows / steps).round() * steps - rows, 0.0)
    return _damage(errors * gradient)


def _head_damage(
    checkpoint: Checkpoint, coded: list[State], judged: list[State], precision: Precision, progress: Progress
) -> float:
    head = load_epilogue(checkpoint)
    weight, norm = head.output.weight, head.norm.to(device())
    codes = coded_head(checkpoint, coded, _quick(precision), progress) if precision.is_searched else None
    pair = [each[:, :, 0, 0].to(device()) for each in (weight, _fake(weight, precision, codes))]
    comparison = Comparison()
    for state in judged:
        for rows in norm(state.hidden)[0].split(max(LEAST_ROWS, CHUNK // len(weight))):
            comparison.add(*(F.linear(rows, each) for each in pair))
    return comparison.divergence_sum / comparison.rows


def _key(precision: Precision) -> str:
    return f"{coding_name(precision)}, {precision.activation_bits}-bit values"


def _write(file: Path, place: str, found: dict[str, dict[Precision, float]]) -> None:
    if not all(math.isfinite(damage) for of_unit in found.values() for damage in of_unit.values()):
        raise HexportError(f"damage: hidden states or weights of {place} are not finite; check the weights for NaN")
    write_json(file, {name: {_key(p): damage for p, damage in of_unit.items()} for name, of_unit in found.items()})


def _files(checkpoint: Checkpoint, candidates: Candidates, coding, judging, folder: Path) -> dict[str, Path]:
    """Return the file of each place, named by a digest of all that it depends on."""
    common = [*identity(checkpoint), coding, judging, code_digest("hexport/fitting/damage.py")]
    of_place: dict[str, list] = {}
    for (place, name), precisions in candidates.items():
        of_place.setdefault(place, []).append([name, *map(_key, precisions)])
    return {place: folder / f"{place}.{kept_name([common, place, units])}.json" for place, units in of_place.items()}
