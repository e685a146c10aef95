"""A recipe says which bit widths and granularity each part of the decoder gets. It is data (recipes/*.yaml).

Parts are addressed by layer and point. The layer is its number, `prologue` or `epilogue`; the point is that of the
quant attrs (`attention.q_rope.mul`) or the module that it lies in (`attention.q_proj`). Both are glob patterns.
"""

import fnmatch
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, lru_cache
from typing import Any

from hexport.decoder.basis import Basis
from hexport.decoder.layer_kinds import MAX_LAYERS

# All layers have the same projections; the epilogue has one.
LAYER_PROJECTIONS = (
    *(f"attention.{name}_proj" for name in "qkvo"),
    *(f"feed_forward.{name}_proj" for name in ("gate", "up", "down")),
)
OUTPUT_PROJECTION = "output"
PROLOGUE, EPILOGUE = "prologue", "epilogue"
TABLE = "embedding"  # the module of the prologue that holds the table
PLACES = dict.fromkeys((*map(str, range(MAX_LAYERS)), PROLOGUE, EPILOGUE))
GLOB = re.compile(r"[*?[]")


@dataclass(frozen=True, kw_only=True)
class Precision:
    """A precision says how one point is coded.

    activation_bits (8 or 16), activation_symmetric, observer: how the values are coded that an op puts out; of a
        projection, also those that it takes.
    weight_bits (4 or 8), granularity: how a projection's weight is coded.
    block_size: input channels that share a scale; None unless the granularity is per_block.
    seq_mse: how many ranges of a weight are tried; 0 takes min-max alone.
    gptq: whether codes of a weight make up for each other's errors (gptq.py), or are the nearest ones.
    """

    activation_bits: int = 16
    activation_symmetric: bool = False
    observer: str = "min_max"
    weight_bits: int = 8
    granularity: str = "per_channel"
    block_size: int | None = None
    seq_mse: int = 0
    gptq: bool = False

    @property
    def is_searched(self) -> bool:
        """Return whether calibration data say how the weight is coded."""
        return self.seq_mse > 0 or self.gptq


PRECISION_KEYS = tuple(key.name for key in fields(Precision))
WEIGHT_KEYS = {"weight_bits", "granularity", "block_size", "seq_mse", "gptq"}


@dataclass(frozen=True, kw_only=True)
class Override:
    """An override changes keys of Precision for the layers and points that two globs name.

    For example, `{layers: "[03]", points: feed_forward.down_proj, weight_bits: 8, granularity: per_channel}` in a
    recipe is `Override(layers="[03]", points="feed_forward.down_proj", changes=(("weight_bits", 8), ("granularity",
    "per_channel")))`, and gives 8-bit weights to the down projections of layers 0 and 3.
    """

    layers: str = "*"
    points: str = "*"
    changes: tuple[tuple[str, Any], ...]

    def names(self, place: str, point: str) -> bool:
        """Return whether the override reaches a point.

        `place` is a layer's number, `prologue` or `epilogue`. A glob names a point, or a module with all its points.
        """
        return place in places_named(self.layers) and names_point(self.points, point)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A recipe holds the precision of all points, the overrides of some, and what concerns the whole decoder.

    kv_bits, logits_bits: bits of the program's caches and of its logits.
    embedding_bits: bits of the table of embeddings: 8 with a scale for each row, or 16 for as many as hidden states
        have.
    masked_softmax, r3: see decoder/model.py.
    r1, r2: see decoder/rotation.py.
    widen: channels that are added to hidden states, see decoder/widening.py.
    tune_scales: passes over the calibration data, see scale_tuning.py.
    """

    precision: Precision = Precision()
    kv_bits: int = 16
    logits_bits: int = 16
    embedding_bits: int = 16
    masked_softmax: bool = False
    r1: bool = False
    r2: bool = False
    r3: bool = False
    widen: int = 0
    tune_scales: int = 0
    overrides: tuple[Override, ...] = field(default=())

    def at(self, place: str, point: str) -> Precision:
        """Return the precision of a point or a projection at a place. Later overrides win, key by key."""
        changes: dict[str, Any] = {}
        for override in self._reaching(place):
            if names_point(override.points, point):
                changes.update(override.changes)
        if self.row_scales and place == PROLOGUE and names_point(TABLE, point):
            changes["activation_bits"] = self.embedding_bits
        changed = replace(self.precision, **changes)
        return changed if changed.granularity == "per_block" else replace(changed, block_size=None)

    @property
    def basis(self) -> Basis:
        """Return the basis in which a decoder of this recipe computes."""
        return Basis(self.r1, self.r2, self.widen, self.row_scales)

    def template_of(self, layer: int) -> tuple[tuple, ...]:
        """Return what overrides say of a layer. Layers for which it is the same can share a template."""
        return tuple((override.points, override.changes) for override in self._reaching(str(layer)))

    def graph_of(self, layer: int) -> tuple[tuple, ...]:
        """Return what overrides say of a layer's activations.

        Layers for which it is the same are calibrated and evaluated with one graph, whatever the bits of their weights.
        """
        of_activations = (
            (override.points, tuple((key, value) for key, value in override.changes if key not in WEIGHT_KEYS))
            for override in self._reaching(str(layer))
        )
        return tuple((points, changes) for points, changes in of_activations if changes)

    @property
    def row_scales(self) -> bool:
        """Return whether each row of the table of embeddings has a scale of its own."""
        return self.embedding_bits == 8

    @cached_property
    def is_searched(self) -> bool:
        """Return whether calibration data say how some weight is coded."""
        return any(self.at(*projection).is_searched for projection in projections(self))

    @cached_property
    def layer_kinds(self) -> list[str]:
        """Return the first layer of each kind that the overrides make, of all layers that a model could have."""
        reached = {self._reaches[str(layer)]: str(layer) for layer in reversed(range(MAX_LAYERS))}
        kinds = {self.template_of(int(layer)): layer for layer in sorted(reached.values(), key=int, reverse=True)}
        return list(kinds.values())

    @cached_property
    def _reaches(self) -> dict[str, int]:
        """Return, by place, the overrides that reach it: bit i is set for override i."""
        found, everywhere = dict.fromkeys(PLACES, 0), 0
        for i, override in enumerate(self.overrides):
            places = places_named(override.layers)
            if len(places) == len(PLACES):
                everywhere |= 1 << i
                continue
            for place in places:
                found[place] |= 1 << i
        return {place: bits | everywhere for place, bits in found.items()}

    def _reaching(self, place: str) -> list[Override]:
        """Return the overrides that reach a layer, the prologue or the epilogue."""
        bits = self._reaches[place]
        if bits not in self._by_bits:
            self._by_bits[bits] = [override for i, override in enumerate(self.overrides) if bits >> i & 1]
        return self._by_bits[bits]

    @cached_property
    def _by_bits(self) -> dict[int, list[Override]]:
        return {}


@lru_cache(maxsize=10_000)
def places_named(layers: str) -> dict[str, None]:
    """Return the places that a glob of layers names."""
    if not GLOB.search(layers):
        return dict.fromkeys([layers] if layers in PLACES else [])
    return dict.fromkeys(fnmatch.filter(PLACES, layers))


@lru_cache(maxsize=100_000)
def names_point(points: str, point: str) -> bool:
    modules = [point]
    while "." in modules[-1]:
        modules.append(modules[-1].rpartition(".")[0])
    return any(fnmatch.fnmatchcase(module, points) for module in modules)


def projections_of(layer: int | str) -> tuple[str, ...]:
    """Return the names of the projections of a layer, given by its number, or of the prologue or the epilogue."""
    return {PROLOGUE: (), EPILOGUE: (OUTPUT_PROJECTION,)}.get(layer, LAYER_PROJECTIONS)


def projections(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Yield place and name of every projection of the epilogue and of one layer of each kind (`layer_kinds`)."""
    yield EPILOGUE, OUTPUT_PROJECTION
    for layer in recipe.layer_kinds:
        for projection in LAYER_PROJECTIONS:
            yield layer, projection
