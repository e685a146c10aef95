"""What a build has come to: a line for each program, and at the end what was made, what was not, and why."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hexport.errors import printable
from hexport.provenance import manifest_path

MB = 10**6
MOST_NAMED = 20  # programs that are not built, one by one
LAST_BYTES = 20_000  # of a log, which ends with the error's trace


@dataclass(frozen=True)
class Failure:
    """A job that failed, after all its attempts. log: its own file, if it has one."""

    rule: str
    artifact: str
    log: str | None


def program_line(program: str, size: int, made_of: Iterable[str]) -> str:
    """The line of a program that is finished: its place and size in bytes, and what the jobs took that made it.

    made_of: its file, templates and shards, whose manifests tell of their jobs, also of those that were not run again.
    """
    seconds, peaks = 0.0, [0]
    for file in made_of:
        try:
            stages = json.loads(manifest_path(Path(file)).read_bytes())["stages"].values()
        except FileNotFoundError:  # an input that no job of this workflow makes, or one that is in a storage
            continue
        seconds += sum(stage["seconds"] for stage in stages)
        peaks += [stage["peak_rss_mb"] for stage in stages]
    return f"built {program}: {size / MB:,.1f} MB; its jobs took {seconds:,.0f} s and up to {max(peaks):,} MB of memory"


def summary(built: int, as_they_were: int, not_built: Iterable[str], failures: Iterable[Failure]) -> list[str]:
    """The last lines of a build, of which programs are `built`, `as_they_were`, or `not_built`."""
    missing = list(not_built)
    counts = [f"{built} built", f"{as_they_were} as they were", *([f"{len(missing)} not built"] if missing else [])]
    lines = [f"programs: {', '.join(counts)}"] if built or as_they_were or missing else []
    lines += [f"not built: {program}" for program in missing[:MOST_NAMED]]
    lines += [f"not built: {len(missing) - MOST_NAMED} more"] if len(missing) > MOST_NAMED else []
    return lines + [_of_failure(failure) for failure in failures]


def that_failed(group: list[Failure]) -> Failure:
    """Of jobs that ran as one, the one that the others were given up for: the first whose log has an error."""
    return next((job for job in group if _trace(job.log)), group[0])


def _of_failure(failure: Failure) -> str:
    where = f"; log: {failure.log}" if failure.log else ""
    return f"failed: {failure.rule}, {failure.artifact}: {reason(failure.log)}{where}"


def reason(log: str | None) -> str:
    """Why a job failed, by its log: the last line of the trace, without the name of the error."""
    trace = _trace(log)
    if not trace:
        return "it was ended before it could say why: by a signal, or for its memory or its time"
    said = [line for line in trace[1:] if line and not line.startswith((" ", "|"))]
    name, _, text = (said or ["an error"])[0].partition(": ")
    return printable(text or name)


def _trace(log: str | None) -> list[str]:
    """The lines of the last trace in a log, if there is one."""
    try:
        with open(log or "", "rb") as file:
            file.seek(max(0, file.seek(0, 2) - LAST_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    starts = [i for i, line in enumerate(lines) if line.startswith("Traceback ")]
    return lines[starts[-1] :] if starts else []
