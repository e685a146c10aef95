"""The tasks of calibration and evaluation: lm-eval's own, and local texts in their form."""

import difflib
import functools
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from hexport.errors import HexportError
from hexport.evaluation.local_text import task_config

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager


def load_tasks(names: list[str], local: dict[str, Path], num_fewshot: int | None) -> dict[str, "Task"]:
    """Task name -> lm-eval task. A name is one of `local`, an lm-eval task, group or tag, or a task's YAML file.

    Groups and tags become the tasks that they consist of. `num_fewshot` takes the place of each task's own number, as
    in `lm_eval.simple_evaluate`; tasks whose number is fixed at 0, such as local texts, keep it. Examples are drawn
    with lm-eval's own seed, so the same ones each time.

    Raises HexportError for unknown names, texts that cannot be read, and data sets that cannot be had.
    """
    from lm_eval.defaults import DEFAULT_OTHER_SEED

    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of what its own task files leave out
    tasks: dict[str, Task] = {}
    for name in names:
        tasks |= _local_task(name, local[name]) if name in local else _known_tasks(name, local)
    for task in tasks.values():
        own = task.get_config("num_fewshot")
        if num_fewshot is None:
            task.set_config("num_fewshot", own or 0)
        elif own != 0:
            task.set_config("num_fewshot", num_fewshot)
        task.set_fewshot_seed(DEFAULT_OTHER_SEED)
    return tasks


def _local_task(name: str, path: Path) -> dict[str, "Task"]:
    from lm_eval.api.task import ConfigurableTask

    return {name: ConfigurableTask(config=task_config(name, path))}


def _known_tasks(name: str, local: dict[str, Path]) -> dict[str, "Task"]:
    manager = _manager(indexed=not Path(name).is_file())
    if name not in manager.task_index and not Path(name).is_file():
        close = difflib.get_close_matches(name, [*local, *manager.all_tasks], 1)
        hint = f"did you mean {close[0]}?" if close else "`lm-eval ls tasks` lists lm-eval's, `tasks` adds local texts"
        raise HexportError(f"unknown task {name!r}; {hint}")
    try:
        return manager.load([name])["tasks"]
    except ConnectionError as error:
        raise HexportError(
            f"task {name}: its data set cannot be had: {_one_line(error)}; go online, or use a local text, which works "
            "offline: tasks: {mine: {text: file.txt}}"
        ) from error
    except Exception as error:  # a task is its author's program and data set, and may raise anything
        raise HexportError(f"task {name}: lm-eval cannot load it: {_one_line(error)}") from error


@functools.cache
def _manager(indexed: bool) -> "TaskManager":
    """`indexed`: knows lm-eval's tasks by name, for which it reads all of their files, in a few seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=indexed)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
