"""This module makes faults of figures. docs/verify.md has what good programs and broken ones were measured at."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from hexport.verification.mistakes import Mistake
from hexport.verification.projection import Projection

GOOD_DB, GOOD_TOP1 = 3.0, 0.25  # of logits less their means; no recipe that is worth its name comes below these
# Two readings of the same tokens need an SQNR that is the second number above that of the logits against the float
# model, but never less than the first number, nor more than the last. Graphs that round alike give equal logits; a
# reading that is as far from the other one as from the float model has other noise.
SAME_DB = (30.0, 1.0, 60.0)
MADE = (0.5, 1.5)  # between these lies the share of a mistake that is made
MOST = 0.5  # more of the error than this must a mistake explain where nothing is left of the float model's logits
# A program's SQNR against its fake-quantised decoder, less that of this decoder against the float one, is QDQ_DB or
# more: the emulator's noise of activations is another one of the same size, which makes 3 dB. A program that is far
# better is of another recipe, too.
QDQ_DB, GOOD_QDQ_DB, BETTER_DB = -4.0, 50.0, 6.0


@dataclass
class Found:
    """An instance holds the figures of a program that ran. Those whose names end in db are SQNR in dB.

    - text: those of `figures.agreement` of the text, read in blocks.
    - first_block_db, cached_db: of the rows that saw no cache, and of those that did.
    - again_db: of the rows of another reading against those of the first.
    - decoded_db: of what the decode graph said of the same tokens.
    - answer_like_float: how many tokens of the greedy answer are the float model's.
    - qdq_db, qdq_float_db: of the program against the fake-quantised decoder, and of that against the float one.
    - layers_db, keys_db: of the v and k of each layer.
    - departs: the layer from which on they are not the float model's (`layers.departure`).
    - located: the first place (`layers.located`).
    - prefills: whether a graph of its own read the text.
    """

    text: dict[str, float | None]
    first_block_db: float
    cached_db: float | None
    again_db: float | None
    decoded_db: float
    answer: list[int]
    answer_like_float: int
    qdq_db: float | None = None
    qdq_float_db: float | None = None
    layers_db: list[float] | None = None
    keys_db: list[float] | None = None
    located: str | None = None
    departs: int | None = None
    prefills: bool = False
    mistakes: list[tuple[Mistake, Projection]] = field(default_factory=list)

    @property
    def made(self) -> tuple[Mistake, Projection] | None:
        """Return the mistake that explains most of the error, of those that the program makes; None where it makes
        none.
        """
        made = [(mistake, projection) for mistake, projection in self.mistakes if self.is_made(projection)]
        return max(made, key=lambda each: each[1].explained, default=None)

    def is_made(self, projection: Projection) -> bool:
        """Tell whether the program makes the mistake of a projection.

        A program that computes something else altogether resembles many mistakes: there, one has to explain most of the
        error.
        """
        explains = projection.explained > MOST or not self.is_bad
        return projection.is_seen and projection.is_whole and MADE[0] < projection.share < MADE[1] and explains

    @property
    def is_bad(self) -> bool:
        """Tell whether the logits are too far from the float model's for any recipe that is worth its name."""
        return self.text["sqnr_db"] < GOOD_DB or self.text["top1_agreement"] < GOOD_TOP1

    @property
    def unseen(self) -> list[str]:
        """Return the names of the mistakes that cannot be seen in the program's noise."""
        return [mistake.name for mistake, projection in self.mistakes if not projection.is_seen]


_READ_AGAIN = {
    True: "the decode graph gives other logits than the prefill graph gave for the same tokens",
    False: "the same tokens, read again, give other logits",
}
_UNLIKE = {
    True: "one of them is another build's, by its weights or quant attrs, or does not obey the mask, or the cache is "
    "not what it takes it for",
    False: "what the mask hides shows in them: the mask is inverted, off by one, or not obeyed at all",
}


def faults_of(found: Found) -> Iterator[str]:
    """Yield the faults that the figures tell, in a line each."""
    if found.again_db is not None and found.again_db < _same_db(found):
        yield (
            f"the same tokens, read in other blocks, give other logits (SQNR {found.again_db:.1f} dB): the mask is not "
            "obeyed (inverted, off by one), or what the cache holds is not what comes back from it (caches exchanged, "
            "another encoding)"
        )
    if found.decoded_db < _same_db(found):
        yield f"{_READ_AGAIN[found.prefills]} (SQNR {found.decoded_db:.1f} dB): {_UNLIKE[found.prefills]}"
    if made := found.made:
        mistake, projection = made
        yield (
            f"it looks as if {mistake.looks} ({mistake.name}: {projection.share:.2f} of what that does to logits is in "
            f"the program's; 0 would be none of it, 1 all)"
        )
    if found.is_bad:
        known = "" if found.made else "; no mistake that is known explains it, as weights of another checkpoint would"
        figures = f"SQNR {found.text['sqnr_db']:.1f} dB, {found.text['top1_agreement']:.0%} of first choices alike"
        yield f"the logits are not the checkpoint's: {figures}{_where(found)}{known}"
    if found.qdq_db is not None and _is_of_another_recipe(found):
        yield (
            f"it does not compute what its recipe says: SQNR {found.qdq_db:.1f} dB against the fake-quantised decoder, "
            f"which is itself {found.qdq_float_db:.1f} dB from the float one: another recipe, as of other bit widths, "
            "or other quant attrs"
        )


def _is_of_another_recipe(found: Found) -> bool:
    better = found.text["sqnr_db"] > found.qdq_float_db + BETTER_DB
    return found.qdq_db < GOOD_QDQ_DB and (better or found.qdq_db < found.qdq_float_db + QDQ_DB)


def _same_db(found: Found) -> float:
    least, above, most = SAME_DB
    return max(least, min(found.text["sqnr_db"] + above, most))


def _where(found: Found) -> str:
    """Return the part of the program to look at."""
    if found.cached_db is not None and found.first_block_db > GOOD_DB:
        return f" behind a cache, {found.first_block_db:.1f} dB without one"
    if found.departs is None or not found.layers_db:
        return ""
    if found.departs == len(found.layers_db):
        return ", though what goes into the last layer is"
    before = f"up to layer {found.departs - 1} it is the checkpoint's, " if found.departs else ""
    return f"; {before}from layer {found.departs} on not"
