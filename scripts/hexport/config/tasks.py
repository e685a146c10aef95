"""This module reads the key `tasks` of config.yaml: local texts, and task files of lm-eval's that the user trusts to
run code."""

from collections.abc import Iterator
from pathlib import Path

from hexport.config.documents import check_file
from hexport.config.settings import Config, Model
from hexport.config.task_file import task_file_parts
from hexport.errors import HexportError
from hexport.evaluation.tasks import TAKEN

CAN_RUN_CODE = "a task file of lm-eval can run any code (`!function`, templates)"


def local_texts(config: Config, names: list[str]) -> dict[str, str]:
    """Return the files of those tasks that are local texts, by name."""
    return {name: config.tasks[name]["text"] for name in names if "text" in config.tasks.get(name, {})}


def trusted_files(config: Config, names: list[str]) -> dict[str, str]:
    """Return the files of those tasks that are defined by a YAML file that the user trusts, by name."""
    return {name: config.tasks[name]["yaml"] for name in names if "yaml" in config.tasks.get(name, {})}


def task_files(config: Config, names: list[str]) -> list[str]:
    """Return the files of these tasks: texts, and task files with what they include, as far as it can be told."""
    defined = [part for file in trusted_files(config, names).values() for part in task_file_parts(Path(file))]
    return list(dict.fromkeys([*local_texts(config, names).values(), *map(str, defined)]))


def task_faults(config: Config) -> Iterator[str]:
    """Yield a line for each fault of `tasks`, and of their use. A name that is not among them may be lm-eval's own,
    which only the jobs know: to list them takes seconds."""
    for name, task in config.tasks.items():
        where = f"tasks.{name}"
        if name in TAKEN:
            yield f"{where}: the name is taken by lm-eval; choose another"
        if ("text" in task) == ("yaml" in task):
            yield f"{where}: expected one of text and yaml, got {'both' if 'text' in task else 'none'}"
            continue
        if "trusted" in task and "text" in task:
            yield f"{where}.trusted: goes with yaml; a text runs no code"
        if "yaml" in task and not task.get("trusted"):
            yield f"{where}.trusted: {CAN_RUN_CODE}; read {task['yaml']}, and add trusted: true to let it"
        for key in {"text", "yaml"} & task.keys():
            try:
                check_file(Path(task[key]))
            except HexportError as error:
                yield f"{where}.{key}: {error}"
    for model in config.models.values():
        for key, name in _used(model):
            where = f"models.{model.name}.{key}.tasks: {name}"
            if name in TAKEN:
                yield f"{where}: no task can have this name, which lm-eval takes for itself"
            elif name not in config.tasks and ("/" in name or Path(name).suffix in (".yaml", ".yml")):
                yield (
                    f"{where}: {CAN_RUN_CODE}; name it in the key tasks, mine: {{yaml: {name}, trusted: true}}, "
                    "and mine here"
                )


def _used(model: Model) -> Iterator[tuple[str, str]]:
    for key in ("calibration", "evaluation"):
        for name in getattr(getattr(model, key), "tasks", None) or []:
            yield key, name
