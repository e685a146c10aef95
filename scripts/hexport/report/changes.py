"""This module tells what changed since the report before, by a small store beside the page. The store has the figures
of the last two reports that differ."""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

from hexport.provenance import write_json

Figures = dict[str, float | str | None]
MOST = 40  # as many changes are shown


@dataclass(frozen=True)
class Difference:
    """A difference is a figure, named by `what`, that is another one now. None stands for a figure that is
    not there."""

    what: str
    before: float | str | None
    now: float | str | None


def changes_since(store: Path, figures: Figures) -> list[Difference]:
    """Put the figures into the store, and return what is not as in the last report with other ones. A store that is
    damaged or missing is begun anew."""
    before, last = _read(store)
    if figures != last:
        before, last = last, figures
        write_json(store, {"before": before, "last": last})
    if not before:
        return []
    names = dict.fromkeys([*last, *before])
    found = [Difference(name, before.get(name), last.get(name)) for name in names if before.get(name) != last.get(name)]
    return found[:MOST]


def _read(store: Path) -> tuple[Figures, Figures]:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        content = json.loads(store.read_bytes())
        found = content["before"], content["last"]
        if all(isinstance(figures, dict) for figures in found):
            return found
    return {}, {}
