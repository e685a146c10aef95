"""Fitting a recipe to a size or to a perplexity: predicted by the damage of each weight, and then measured."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from hexport.errors import HexportError
from hexport.fitting.choices import Unit, as_recipe
from hexport.fitting.curve import Choice, Curve
from hexport.progress import Progress
from hexport.quantization.recipe import Recipe, recipe_from

MOST_MEASURED = 6  # recipes, on the way to a perplexity
CLOSE = 0.005  # of the size: nearer to the smallest one that will do, no recipe is looked for


class Measures(Protocol):
    def perplexity_ratio(self, recipe: Recipe) -> float: ...


@dataclass(frozen=True)
class Fitted:
    """A recipe's keys beside `based_on`, and what to expect of it.

    n_bytes: estimated. damage: predicted, in nats. perplexity_ratio: measured, per token.
    """

    content: dict[str, Any]
    n_bytes: int
    damage: float
    perplexity_ratio: float


class Fitter:
    """Fits a recipe on a curve; `spec` is the full content of the recipe that it is based on.

    measured: all recipes of the curve that were measured, by their bytes.
    """

    def __init__(self, spec: Mapping[str, Any], name: str, n_layers: int, curve: Curve, laboratory: Measures):
        self.spec, self.recipe, self.n_layers = spec, recipe_from(dict(spec), name), n_layers
        self.curve, self.laboratory, self.measured = curve, laboratory, {}

    def to_size(self, n_bytes: int, progress: Progress) -> Fitted:
        """The recipe of so many bytes at most, with the two ends of the curve measured beside it.

        Raises HexportError where no recipe is that small.
        """
        chosen = self.curve.within(n_bytes)
        fitted = self._measure(chosen, progress)
        for end in (0, math.inf):
            self._measure(self._at(end), progress)
        return fitted

    def to_ratio(self, ratio: float, progress: Progress) -> Fitted:
        """The smallest recipe with this perplexity ratio at most, of those that were measured.

        Between two recipes that were measured, the logarithm of the ratio goes about as the damage does. Raises
        HexportError where 8 bits throughout have a larger one.
        """
        largest, smallest = (self._measure(self._at(end), progress) for end in (math.inf, 0))
        if largest.perplexity_ratio > ratio:
            raise HexportError(
                f"a perplexity ratio of {ratio:g} is less than the largest program has, {largest.perplexity_ratio:.4f} "
                f"at {largest.n_bytes / 1e6:.1f} MB; give more"
            )
        best, worse = largest, smallest
        while worse.perplexity_ratio > ratio and best.n_bytes - worse.n_bytes > CLOSE * best.n_bytes:
            if len(self.measured) >= MOST_MEASURED:
                break
            chosen = self._between(worse, best, math.log(ratio))
            if self.curve.size_of(chosen) in self.measured:
                break
            found = self._measure(chosen, progress)
            best, worse = (found, worse) if found.perplexity_ratio <= ratio else (best, found)
        return best if worse.perplexity_ratio > ratio else worse

    def table(self) -> Iterator[tuple[int, float, float, float | None]]:
        """Bytes, damage, perplexity ratio as interpolated and, where there is one, as measured, along the curve."""
        known = sorted((fitted.damage, math.log(fitted.perplexity_ratio)) for fitted in self.measured.values())
        points = dict(self.curve.points())
        points |= {fitted.n_bytes: fitted.damage for fitted in self.measured.values()}
        for size, damage in sorted(points.items()):
            ratio = math.exp(np.interp(damage, *zip(*known, strict=True)))
            yield size, damage, ratio, self.measured[size].perplexity_ratio if size in self.measured else None

    def _between(self, worse: Fitted, best: Fitted, log_ratio: float) -> dict[Unit, Choice]:
        """Where the logarithm of the ratio is looked for, between two recipes, with a little to spare."""
        known = [(math.log(each.perplexity_ratio), each.damage) for each in (best, worse)]
        wanted = np.interp(log_ratio * 0.98, *zip(*known, strict=True))
        size = next(size for size, damage in self.curve.points() if damage <= wanted)
        return self.curve.within(size)

    def _at(self, end: float) -> dict[Unit, Choice]:
        return self.curve.within(max(end, self.curve.size_of(self.curve.smallest)))

    def _measure(self, chosen: Mapping[Unit, Choice], progress: Progress) -> Fitted:
        size, damage = self.curve.size_of(chosen), self.curve.damage_of(chosen)
        if size not in self.measured:
            precisions = {unit: choice.precision for unit, choice in chosen.items()}
            content = as_recipe(self.recipe, self.n_layers, precisions)
            spec = {**self.spec, **content, "overrides": [*self.spec.get("overrides", ()), *content["overrides"]]}
            progress.say(f"fit: measuring a recipe of {size / 1e6:.1f} MB")
            ratio = self.laboratory.perplexity_ratio(recipe_from(spec, "fitted"))
            progress.say(f"fit: {size / 1e6:.1f} MB, perplexity ratio {ratio:.4f}")
            self.measured[size] = Fitted(content, size, damage, ratio)
        return self.measured[size]
