"""From figures to faults. docs/verify.md has what good programs and broken ones were measured at."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from hexport.verification.mistakes import Mistake
from hexport.verification.projection import Projection

GOOD_DB = 6.0  # SQNR of logits less their means, below which no recipe that is worth its name comes
SAME_DB = 30.0  # of two readings of the same tokens; graphs that round alike are equal
QDQ_DB = 1.0  # that a program is at least nearer to its fake-quantised decoder than the float one is


@dataclass
class Found:
    """What was measured of a program that ran.

    text: as `figures.agreement` of the text, read in blocks. first_block_db, cached_db: SQNR of the rows that saw no
    cache, and of those that did. again_db: of the rows of another reading against those of the first. decoded_db:
    of what the decode graph said of the same tokens. answer_like_float: how many tokens of the greedy answer are the
    float model's. qdq_db, qdq_float_db: of the program against the fake-quantised decoder, and of that against the
    float one. layers_db: of the v of each layer.
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
    mistakes: list[tuple[Mistake, Projection]] = field(default_factory=list)

    @property
    def made(self) -> tuple[Mistake, Projection] | None:
        """The mistake that explains most of the error, of those that the program makes."""
        made = [(mistake, projection) for mistake, projection in self.mistakes if projection.is_made]
        return max(made, key=lambda each: each[1].explained, default=None)

    @property
    def unseen(self) -> list[str]:
        return [mistake.name for mistake, projection in self.mistakes if not projection.is_seen]


def is_bad(found: Found) -> bool:
    return found.text["sqnr_db"] < GOOD_DB


def faults_of(found: Found) -> Iterator[str]:
    """In a line each."""
    if found.again_db is not None and found.again_db < SAME_DB:
        yield (
            f"the same tokens, read in other blocks, give other logits (SQNR {found.again_db:.1f} dB): the mask is not "
            "obeyed (inverted, off by one), or what the cache holds is not what comes back from it (caches exchanged, "
            "another encoding)"
        )
    if found.decoded_db < SAME_DB:
        yield (
            f"the decode graph gives other logits than the same text, read in blocks (SQNR {found.decoded_db:.1f} dB): "
            "its weights or encodings are another build's, or it does not obey the mask, or the cache is not what it "
            "takes it for"
        )
    if made := found.made:
        mistake, projection = made
        yield (
            f"it looks as if {mistake.looks} ({mistake.name}: {projection.share:.2f} of what that does to logits is in "
            f"the program's; 0 would be none of it, 1 all)"
        )
    if is_bad(found):
        known = "" if found.made else "; no mistake that is known explains it, as weights of another checkpoint would"
        where = _where(found)
        yield f"the logits are not the checkpoint's: SQNR {found.text['sqnr_db']:.1f} dB{where}{known}"
    if found.qdq_db is not None and found.qdq_db < min(found.qdq_float_db + QDQ_DB, SAME_DB):
        yield (
            f"it does not compute what its recipe says: SQNR {found.qdq_db:.1f} dB against the fake-quantised decoder, "
            f"which is itself {found.qdq_float_db:.1f} dB from the float one: another recipe, as of other bit widths, "
            "or other quant attrs"
        )


def _where(found: Found) -> str:
    if found.cached_db is not None and found.first_block_db > GOOD_DB:
        return f" behind a cache, {found.first_block_db:.1f} dB without one"
    return ""
