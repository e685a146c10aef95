"""This module puts figures of all three phases side by side, as a table of one row per task, program and device."""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hexport.build.artifacts import Place, evaluation_file, fp_file, qdq_file
from hexport.evaluation.result_files import OF_REPORTS, read_evaluation

PHASES = ("fp", "qdq", "device")
PLACE = (*Place._fields, "task")
# Figures of all tasks of a phase together; docs/evaluation.md explains them.
OF_ALL_TASKS = ("sqnr_db", "kl_divergence", "top1_agreement", "top1_agreement_qdq", "tokens", "limit", "graph")


@dataclass(frozen=True)
class Evaluation:
    """An evaluation has the contents of fp.json, qdq.json and evaluation.json of a place, by the names in PHASES. {}
    stands for a phase that was not evaluated."""

    place: Place
    phases: dict[str, dict]

    @property
    def tasks(self) -> list[str]:
        """Return the names of the tasks that any phase has figures of."""
        return list(dict.fromkeys(task for phase in self.phases.values() for task in phase.get("tasks", {})))


def _files(artifacts: str, place: Place, phases: list[str]) -> dict[str, Path]:
    """Return the file of each phase. `phases` are those besides device; a place without a device has no file of that
    phase."""
    files = {
        "fp": fp_file(artifacts, place.model, place.context_length),
        "qdq": qdq_file(artifacts, place.model, place.recipe, place.context_length),
        "device": evaluation_file(artifacts, place),
    }
    there = [*phases, "device"] if place.device else phases
    return {phase: Path(file) for phase, file in files.items() if phase in there}


def phase_files(artifacts: str, evaluation: Evaluation) -> dict[str, Path]:
    """Return the files of the phases that were evaluated."""
    return _files(artifacts, evaluation.place, [phase for phase in ("fp", "qdq") if evaluation.phases[phase]])


def read_evaluations(artifacts: str, evaluations: Iterable[list]) -> list[Evaluation]:
    """Return the contents of evaluations. Each is given as [model, recipe, context length, target, device, mode, phases
    besides device].

    Raises HexportError where a file has another form.
    """
    read = cache(read_evaluation)
    needed = {"fp": (), "qdq": OF_REPORTS, "device": ()}
    found = []
    for *place, phases in evaluations:
        files = _files(artifacts, Place(*place), phases)
        contents = {phase: read(files[phase], needed[phase]) if phase in files else {} for phase in PHASES}
        found.append(Evaluation(Place(*place), contents))
    return found


def input_files(artifacts: str, evaluations: Iterable[list]) -> dict[str, Path]:
    """Return the files that `read_evaluations` reads, by their paths."""
    of_each = (_files(artifacts, Place(*place), phases).values() for *place, phases in evaluations)
    return {str(file): file for files in of_each for file in files}


def summary_rows(evaluations: Iterable[Evaluation]) -> list[dict[str, object]]:
    """Return a row per task of each place, as column -> value, without the columns that have none."""
    return [_row(evaluation, task) for evaluation in evaluations for task in evaluation.tasks]


def as_csv(rows: list[dict[str, object]]) -> str:
    """Return the rows as CSV. The phases of one figure stand side by side. Figures that no row has are left out, other
    cells are empty."""
    found = dict.fromkeys(column for row in rows for column in row if column not in PLACE)
    figures = dict.fromkeys(column.split("_", 1)[1] for column in found)
    figures = sorted(figures, key=lambda name: OF_ALL_TASKS.index(name) if name in OF_ALL_TASKS else -1)
    columns = [f"{phase}_{name}" for name in figures for phase in PHASES if f"{phase}_{name}" in found]
    table = io.StringIO()
    writer = csv.DictWriter(table, [*PLACE, *columns], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue()


def _row(evaluation: Evaluation, task: str) -> dict[str, object]:
    row: dict[str, object] = {**evaluation.place._asdict(), "task": task}
    for phase, content in evaluation.phases.items():
        figures = {
            **content.get("tasks", {}).get(task, {}),
            "perplexity_ratio": content.get("perplexity_ratio", {}).get(task),
            **{name: content.get(name) for name in OF_ALL_TASKS},
        }
        row |= {f"{phase}_{name}": value for name, value in figures.items() if value is not None}
    return row
