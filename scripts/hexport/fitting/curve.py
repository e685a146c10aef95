"""The least damage for every size: which weight gets more bytes next."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from hexport.errors import HexportError
from hexport.fitting.choices import Unit
from hexport.quantization.recipe import Precision


@dataclass(frozen=True)
class Choice:
    """A unit's precision, the bytes that it takes, and what it costs in the KL divergence of the logits, in nats."""

    precision: Precision
    n_bytes: int
    damage: float


@dataclass(frozen=True)
class Step:
    """A unit's change from one choice to the next one up."""

    unit: Unit
    choice: Choice
    extra_bytes: int
    gain: float

    @property
    def gain_per_byte(self) -> float:
        return self.gain / self.extra_bytes


class Curve:
    """From all units in the fewest bytes to all of them in their best choice, the best bargain first.

    The greedy order is that of the relaxed knapsack of classes: on the way, no choice of as many bytes has less damage,
    but for the last step. `other_bytes` are those of the program that there is no choice of.
    """

    def __init__(self, choices: Mapping[Unit, Iterable[Choice]], other_bytes: int):
        hulls = {unit: hull(of_unit) for unit, of_unit in choices.items()}
        self.other_bytes, self.smallest = other_bytes, {unit: best[0] for unit, best in hulls.items()}
        steps = [step for unit, best in hulls.items() for step in _steps(unit, best)]
        self.steps = sorted(steps, key=lambda step: -step.gain_per_byte)

    def within(self, n_bytes: float) -> dict[Unit, Choice]:
        """The choice of each unit for a program of so many bytes at most. Raises HexportError where none is that small.

        What a step is too large for is left to the steps behind it.
        """
        chosen, size, full = dict(self.smallest), self.size_of(self.smallest), set()
        if size > n_bytes:
            raise HexportError(
                f"{n_bytes / 1e6:.1f} MB are less than the smallest program takes, {size / 1e6:.1f} MB; give more"
            )
        for step in self.steps:
            if step.unit not in full and size + step.extra_bytes <= n_bytes:
                chosen[step.unit], size = step.choice, size + step.extra_bytes
            else:
                full.add(step.unit)
        return chosen

    def points(self) -> Iterator[tuple[int, float]]:
        """Bytes and damage behind each step, from the smallest program on."""
        size, damage = self.size_of(self.smallest), self.damage_of(self.smallest)
        yield size, damage
        for step in self.steps:
            size, damage = size + step.extra_bytes, damage - step.gain
            yield size, damage

    def size_of(self, chosen: Mapping[Unit, Choice]) -> int:
        return self.other_bytes + sum(choice.n_bytes for choice in chosen.values())

    @staticmethod
    def damage_of(chosen: Mapping[Unit, Choice]) -> float:
        return sum(choice.damage for choice in chosen.values())


def hull(choices: Iterable[Choice]) -> list[Choice]:
    """Those that are worth their bytes, ascending: each step up gains less for a byte than the one before it."""
    best: list[Choice] = []
    for choice in sorted(choices, key=lambda choice: (choice.n_bytes, choice.damage)):
        if best and choice.damage >= best[-1].damage:
            continue
        while len(best) > 1 and _gain_per_byte(*best[-2:]) <= _gain_per_byte(best[-1], choice):
            best.pop()
        best.append(choice)
    return best


def _gain_per_byte(below: Choice, above: Choice) -> float:
    return (below.damage - above.damage) / (above.n_bytes - below.n_bytes)


def _steps(unit: Unit, best: list[Choice]) -> Iterator[Step]:
    for below, above in pairwise(best):
        yield Step(unit, above, above.n_bytes - below.n_bytes, below.damage - above.damage)
