"""This module fits a recipe to a size or a perplexity, which it predicts by the damage of weights and then measures."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from hexport.errors import HexportError
from hexport.fitting.choices import Unit, as_recipe
from hexport.fitting.curve import Choice, Curve
from hexport.progress import Progress
from hexport.quantization.recipe import Recipe
from hexport.quantization.recipe_checks import recipe_from

MOST_MEASURED = 6  # so many recipes are measured at most on the way to a perplexity
CLOSE = 0.005  # no recipe is looked for between two whose sizes differ by less than this part


class Measures(Protocol):
    """An object of this type measures the perplexity of a recipe, in units of the float model's."""

    def perplexity_ratio(self, recipe: Recipe) -> float: ...


@dataclass(frozen=True)
class Fitted:
    """A fitted recipe holds its keys beside `based_on` (`content`), and what to expect of it.

    n_bytes: the estimated bytes of the program.
    damage: the predicted KL divergence, in nats per token.
    perplexity_ratio: the measured perplexity per token, in units of the float model's.
    """

    content: dict[str, Any]
    n_bytes: int
    damage: float
    perplexity_ratio: float


class Fitter:
    """A fitter looks for a recipe on a curve. `spec` is the full content of the recipe that it is based on.

    `measured` has all recipes of the curve that were measured, by their bytes.
    """

    def __init__(self, spec: Mapping[str, Any], name: str, n_layers: int, curve: Curve, laboratory: Measures):
        self.spec, self.recipe, self.n_layers = spec, recipe_from(dict(spec), name), n_layers
        self.curve, self.laboratory, self.measured = curve, laboratory, {}

    def to_size(self, n_bytes: int, progress: Progress) -> Fitted:
        """Return the recipe of at most `n_bytes`, and measure the two ends of the curve beside it.

        Raises HexportError where no recipe is that small.
        """
        fitted = self._measure(self.curve.within(n_bytes), progress)
        for end in (0, math.inf):
            self._measure(self._at(end), progress)
        return fitted

    def to_ratio(self, ratio: float, progress: Progress) -> Fitted:
        """Return the smallest recipe with at most this perplexity ratio, of those that were measured.

        Between two recipes that were measured, the logarithm of the ratio is taken to grow as the damage does. Raises
        HexportError where the largest program, with the best choice of every unit, has a larger ratio.
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
        """Yield points of the curve: bytes, damage, the interpolated perplexity ratio, and the measured one or None."""
        known = sorted((fitted.damage, math.log(fitted.perplexity_ratio)) for fitted in self.measured.values())
        points = dict(self.curve.points())
        points |= {fitted.n_bytes: fitted.damage for fitted in self.measured.values()}
        for size, damage in sorted(points.items()):
            ratio = math.exp(np.interp(damage, *zip(*known, strict=True)))
            yield size, damage, ratio, self.measured[size].perplexity_ratio if size in self.measured else None

    def _between(self, worse: Fitted, best: Fitted, log_ratio: float) -> dict[Unit, Choice]:
        """Return choices between two measured recipes where the ratio is expected, with a little to spare."""
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
