"""What the doctor finds. Standard library alone, and any Python 3: it is read where nothing is installed yet."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

GOOD, NOTE, BAD = "good", "note", "bad"


@dataclass(frozen=True)
class Finding:
    """Something that was looked at: its state (`good`; `note`, which stands in the way of some uses alone; `bad`), what
    was found, and for what is not good, what mends it."""

    what: str
    state: str
    found: str
    mend: str = ""


def judged(what: str, good: bool, found: str, mend: str, otherwise: str = BAD) -> Finding:
    """A finding that is good, or else `otherwise` with a mend."""
    return Finding(what, GOOD, found) if good else Finding(what, otherwise, found, mend)


def table(findings: list[Finding]) -> str:
    """One line for each finding, and one more for each mend."""
    wide = max(len(finding.what) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.state:<5} {finding.what:<{wide}}  {finding.found}")
        if finding.mend:
            lines.append(f"{'':<5} {'':<{wide}}  -> {finding.mend}")
    return "\n".join(lines)


def findings_json(findings: list[Finding]) -> str:
    return json.dumps([asdict(finding) for finding in findings], indent=1)
