"""This module tells what became of each program that the config asks for, and what it took to make it, by files and
manifests."""

import datetime
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hexport.build.artifacts import (
    ProgramKey,
    checkpoint_file,
    gates_file,
    program_file,
    quant_attrs_file,
    template_file,
    tokens_file,
    weights_file,
)
from hexport.provenance import Cost, cost_of
from hexport.targets.target import target_named

# Stages of making a program, from the first on.
STAGES = ("checkpoint", "calibration data", "weights", "calibration", "templates", "shards", "program")


@dataclass(frozen=True)
class BuiltProgram:
    """A built program is one that the config asks for, with what became of it. `n_bytes` and `built` (date and time,
    UTC) are None where it is not there. `costs` are those of artifacts that are there, by stage. `passed` is whether
    its gates are passed, as far as there are some."""

    program: ProgramKey
    file: str
    n_bytes: int | None
    built: str | None
    costs: dict[str, Cost]
    passed: bool


def built_programs(artifacts: str, programs: Iterable[ProgramKey]) -> list[BuiltProgram]:
    """Return what became of each program."""
    found = []
    for program in programs:
        file = Path(program_file(artifacts, program))
        state = file.stat() if file.is_file() else None
        gates = Path(gates_file(artifacts, program.model, program.recipe, program.context_length))
        found.append(
            BuiltProgram(
                program,
                str(file),
                state and state.st_size,
                state and datetime.datetime.fromtimestamp(state.st_mtime, datetime.UTC).strftime("%Y-%m-%d %H:%M"),
                {stage: cost for stage, files in _parts(artifacts, program, file).items() if (cost := _cost(files))},
                gates.is_file(),
            )
        )
    return found


def model_costs(programs: Iterable[BuiltProgram]) -> dict[str, dict[str, Cost]]:
    """Return, of each model, what all of its programs took by stage; what several share counts once."""
    parts: dict[str, dict[str, dict[tuple, Cost]]] = {}
    for built in programs:
        model, recipe, context_len, target, mode = built.program
        scopes = {"checkpoint": (), "calibration data": (), "weights": (recipe,), "calibration": (recipe,)}
        scopes |= {"templates": (recipe, context_len, target_named(target).htp_arch)}
        for stage, cost in built.costs.items():
            scope = scopes.get(stage, (recipe, context_len, target, mode))
            parts.setdefault(model, {}).setdefault(stage, {})[scope] = cost
    return {
        model: {stage: _sum(stages[stage].values()) for stage in STAGES if stage in stages}
        for model, stages in parts.items()
    }


def _parts(artifacts: str, program: ProgramKey, file: Path) -> dict[str, list[Path]]:
    """Return the files of each stage; `file` is that of the program."""
    model, recipe, *_ = program
    templates = Path(template_file(artifacts, program, target_named(program.target).htp_arch, 1)).parent
    return {
        "checkpoint": [Path(checkpoint_file(artifacts, model))],
        "calibration data": [Path(tokens_file(artifacts, model))],
        "weights": [Path(weights_file(artifacts, model, recipe))],
        "calibration": [Path(quant_attrs_file(artifacts, model, recipe))],
        "templates": sorted(templates.glob("ar*[0-9].json")),  # and not their manifests
        "shards": sorted((file.parent / "shards" / program.mode).glob("*.bin")),
        "program": [file],
    }


_cost_of = cache(cost_of)  # programs share files


def _cost(files: list[Path]) -> Cost | None:
    return _sum(costs) if (costs := [cost for file in files if (cost := _cost_of(file))]) else None


def _sum(costs: Collection[Cost]) -> Cost:
    return Cost(round(sum(cost.seconds for cost in costs), 1), max(cost.peak_mb for cost in costs))
