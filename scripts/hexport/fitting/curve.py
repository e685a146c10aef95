"""This module finds the least damage for every size, by choosing which weight gets more bytes next."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from hexport.errors import HexportError
from hexport.fitting.choices import Unit
from hexport.quantization.recipe import Precision


@dataclass(frozen=True)
class Choice:
    """A choice is a precision of a unit, the bytes that it takes, and its damage.

    Damage is what it adds to the KL divergence of the logits, in nats per token.
    """

    precision: Precision
    n_bytes: int
    damage: float


@dataclass(frozen=True)
class Step:
    """A step is a unit's change from one choice to the next larger one."""

    unit: Unit
    choice: Choice
    extra_bytes: int
    gain: float


class Curve:
    """A curve goes from all units in the fewest bytes to all of them in their best choice, the best bargain first.

    The greedy order is that of the relaxed knapsack of classes: on the way, no choice of as many bytes has less damage,
    but for the last step. `other_bytes` are those of the program for which there is no choice.
    """

    def __init__(self, choices: Mapping[Unit, Iterable[Choice]], other_bytes: int):
        hulls = {unit: hull(of_unit) for unit, of_unit in choices.items()}
        self.other_bytes, self.smallest = other_bytes, {unit: best[0] for unit, best in hulls.items()}
        steps = [step for unit, best in hulls.items() for step in _steps(unit, best)]
        self.steps = sorted(steps, key=lambda step: -step.gain / step.extra_bytes)

    def within(self, n_bytes: float) -> dict[Unit, Choice]:
        """Return the choice of each unit for a program of at most `n_bytes`.

        Where a step is too large, the steps behind it may still use the bytes that are left. Raises HexportError where
        no program is that small.
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
        """Yield the bytes and the damage behind each step, from the smallest program on."""
        size, damage = self.size_of(self.smallest), self.damage_of(self.smallest)
        yield size, damage
        for step in self.steps:
            size, damage = size + step.extra_bytes, damage - step.gain
            yield size, damage

    def size_of(self, chosen: Mapping[Unit, Choice]) -> int:
        """Return the bytes of a program with these choices."""
        return self.other_bytes + sum(choice.n_bytes for choice in chosen.values())

    @staticmethod
    def damage_of(chosen: Mapping[Unit, Choice]) -> float:
        """Return the damage of these choices together, in nats per token."""
        return sum(choice.damage for choice in chosen.values())


def hull(choices: Iterable[Choice]) -> list[Choice]:
    """Return the choices that are worth their bytes, ascending: each gains less per byte than the one before it."""
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
