"""This module defines what the doctor finds. It takes the standard library alone, and any Python 3, as it is read where
nothing is installed yet."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

GOOD, NOTE, BAD = "good", "note", "bad"


@dataclass(frozen=True)
class Finding:
    """A finding is something that was looked at. It has a state (`good`; `note`, which stands in the way of some uses
    alone; `bad`), what was found, and for what is not good, what mends it."""

    what: str
    state: str
    found: str
    mend: str = ""


def judged(what: str, good: bool, found: str, mend: str, otherwise: str = BAD) -> Finding:
    """Return a finding that is good, or else has the state `otherwise` and a mend."""
    return Finding(what, GOOD, found) if good else Finding(what, otherwise, found, mend)


def table(findings: list[Finding]) -> str:
    """Return a text with one line for each finding, and one more for each mend."""
    wide = max(len(finding.what) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.state:<5} {finding.what:<{wide}}  {finding.found}")
        if finding.mend:
            lines.append(f"{'':<5} {'':<{wide}}  -> {finding.mend}")
    return "\n".join(lines)


def findings_json(findings: list[Finding]) -> str:
    """Return the findings as a JSON list of objects."""
    return json.dumps([asdict(finding) for finding in findings], indent=1)
