"""This module tells what a build has come to: a line for each program, and at the end what was made, how good it is,
what was not made and why, and where to look next."""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hexport.errors import HexportError, printable
from hexport.evaluation.result_files import read_evaluation
from hexport.progress import duration
from hexport.provenance import cost_of

MB = 10**6
MOST_NAMED = 20  # programs that are named one by one
NEXT = {  # what each target does with programs
    "export": "compiles for every SoC",
    "run": "lets them answer the prompts",
    "evaluate": "measures them",
    "report": "shows it all on a page",
    "bundle": "packs them for an app team",
}
LAST_BYTES = 20_000  # of a log, which ends with the error's trace


@dataclass(frozen=True)
class Failure:
    """A failure is a job that failed, after all its attempts. `log` is the job's own file, if it has one."""

    rule: str
    artifact: str
    log: str | None


@dataclass(frozen=True)
class Result:
    """A result is a program, its size in bytes and its evaluations: evaluation.json by the device, or qdq.json of its
    model as `quantised`."""

    program: str
    size: int
    evaluations: Mapping[str, Path]
    gates_passed: bool = False


def program_line(program: str, size: int, made_of: Iterable[str]) -> str:
    """Return the line of a program that is finished: its place and size in bytes, and what the jobs took that made it.

    made_of: its file, templates and shards, whose manifests tell of their jobs, also of those that were not run again.
    """
    costs = [cost for file in made_of if (cost := cost_of(Path(file)))]
    seconds, peak = sum(cost.seconds for cost in costs), max((cost.peak_mb for cost in costs), default=0)
    return f"built {program}: {size / MB:,.1f} MB; its jobs took {seconds:,.0f} s and up to {peak:,} MB of memory"


def summary(
    built: int, as_they_were: int, not_built: Iterable[str], failures: Iterable[Failure], seconds: float
) -> list[str]:
    """Return the lines of a build that took so many seconds: how many programs are built, are as they were or are not
    built, and each failure."""
    missing = list(not_built)
    counts = [f"{built} built", f"{as_they_were} as they were", *([f"{len(missing)} not built"] if missing else [])]
    programs = f"programs: {', '.join(counts)}; " if built or as_they_were or missing else ""
    lines = [f"{programs}this took {duration(seconds)}", *_first_of("not built", missing)]
    for failure in failures:
        where = f"; log: {failure.log}" if failure.log else ""
        lines.append(f"failed: {failure.rule}, {failure.artifact}: {reason(failure.log)}{where}")
    return lines


def result_lines(results: Iterable[Result]) -> list[str]:
    """Return a line for each program, which says how large it is, and how good as far as it was evaluated."""
    return _first_of("program", [f"{result.program}: {', '.join(_qualities(result))}" for result in results])


def where_next(made: Mapping[str, list[str]], open_targets: Container[str]) -> list[str]:
    """Return the last lines after a build without failures: files to look at, by what they are, and what could come
    next.

    open_targets: those of which this build has not made all, though the config has something for them.
    """
    lines = [f"{what}: {files[0]}{_and_more(files)}" for what, files in made.items() if files]
    commands = [f"`snakemake {target}` {does}" for target, does in NEXT.items() if target in open_targets][:2]
    return lines + ([f"next: {'; '.join(commands)}"] if commands else [])


def _first_of(kind: str, named: list[str]) -> list[str]:
    more = len(named) - MOST_NAMED
    return [f"{kind}: {name}" for name in named[:MOST_NAMED]] + ([f"{kind}: {more} more"] if more > 0 else [])


def _and_more(files: list[str]) -> str:
    return f" and {len(files) - 1} more" if len(files) > 1 else ""


def _qualities(result: Result) -> list[str]:
    found = [f"{result.size / MB:,.1f} MB"]
    for phase, file in result.evaluations.items():
        try:
            evaluation = read_evaluation(file)
        except (OSError, HexportError):  # a storage has it, or it was edited; the build is over all the same
            continue
        where = phase if phase == "quantised" else f"on {phase}"
        ratios = evaluation.get("perplexity_ratio", {})
        for task, ratio in ratios.items():
            found.append(f"perplexity ratio {f'{ratio:.3f}' if ratio else 'not finite'} ({task}, {where})")
        if not ratios and evaluation.get("sqnr_db"):
            found.append(f"SQNR {evaluation['sqnr_db']:.1f} dB ({where})")
    return found + (["gates passed"] if result.gates_passed else [])


def that_failed(group: list[Failure]) -> Failure:
    """Return, of jobs that ran as one, the job that the others were given up for: the first whose log has an error."""
    return next((job for job in group if _trace(job.log)), group[0])


def reason(log: str | None) -> str:
    """Return why a job failed, by its log: the error's line in the last trace, without the name of the error."""
    trace = _trace(log)
    if not trace:
        return "it was ended before it could say why: by a signal, or for its memory or its time"
    said = [line for line in trace[1:] if line and not line.startswith((" ", "|"))]
    name, _, text = (said or ["an error"])[0].partition(": ")
    return printable(text or name)


def _trace(log: str | None) -> list[str]:
    """Return the lines of the last trace in a log, if there is one."""
    try:
        with open(log or "", "rb") as file:
            file.seek(max(0, file.seek(0, 2) - LAST_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    starts = [i for i, line in enumerate(lines) if line.startswith("Traceback ")]
    return lines[starts[-1] :] if starts else []
