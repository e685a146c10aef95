"""This module loads the tasks of calibration and evaluation: lm-eval's own, local texts in their form, and task files
that are trusted.

A task file of lm-eval's is a program: `!function` imports Python, and its templates are Jinja without a sandbox. So one
is only loaded where the user has said so; a local text runs nothing.
"""

import difflib
import functools
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from hexport.errors import HexportError, one_line
from hexport.evaluation.local_text import task_config

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager

# Names under which lm-eval's own functions give other things beside tasks.
TAKEN = ("tasks", "groups", "group_map")


def load_tasks(
    names: list[str], local: dict[str, Path], num_fewshot: int | None, trusted: dict[str, str] | None = None
) -> dict[str, "Task"]:
    """Return lm-eval's tasks by name. A name is one of `local` (name -> text), one of `trusted` (name -> task file,
    which may run any code), or an lm-eval task, group or tag. The tasks of a task file have the names that it gives
    them.

    Groups and tags become the tasks that they consist of. `num_fewshot` takes the place of each task's own number, as
    in `lm_eval.simple_evaluate`; tasks whose number is fixed at 0, such as local texts, keep it. Examples are drawn
    with lm-eval's own seed, so they are the same each time.

    Raises HexportError for unknown names, texts that cannot be read, data sets that cannot be had, and task files whose
    names are those of other tasks.
    """
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.defaults import DEFAULT_OTHER_SEED

    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of what its own task files leave out
    tasks: dict[str, Task] = {}
    for name in names:
        if name in local:
            found = {name: ConfigurableTask(config=task_config(name, local[name]))}
        elif trusted and name in trusted:
            found = _trusted_tasks(name, Path(trusted[name]), {*tasks, *names} - {name})
        else:
            found = _known_tasks(name, [*local, *(trusted or ())])
        tasks |= found
    for task in tasks.values():
        own = task.get_config("num_fewshot")
        if num_fewshot is None:
            task.set_config("num_fewshot", own or 0)
        elif own != 0:
            task.set_config("num_fewshot", num_fewshot)
        task.set_fewshot_seed(DEFAULT_OTHER_SEED)
    return tasks


def task_inputs(local: dict[str, Path], trusted: dict[str, str] | None) -> dict[str, Path]:
    """Return the files of tasks as inputs of a manifest, such as `{"tasks.mine": Path("mine.txt")}`."""
    files = local | {name: Path(file) for name, file in (trusted or {}).items()}
    return {f"tasks.{name}": file for name, file in files.items()}


def _trusted_tasks(name: str, file: Path, others: set[str]) -> dict[str, "Task"]:
    """Return the tasks of a task file. `others` are names that they may not have."""
    if not file.is_file():
        raise HexportError(f"task {name}: {file}: no such file")
    found = _load(name, str(file.resolve()), _manager(indexed=False))
    for task in found:
        if task in others or task in TAKEN:
            raise HexportError(f"task {name}: {file} names a task {task!r}, and that is taken; choose another there")
    return found


def _known_tasks(name: str, own: list[str]) -> dict[str, "Task"]:
    manager = _manager(indexed=True)
    if name not in manager.task_index:
        # To compare a long text, such as a path, with 14,000 names takes a minute.
        close = difflib.get_close_matches(name, [*own, *manager.all_tasks], 1) if len(name) <= 40 else []
        hint = f"did you mean {close[0]}?" if close else "`lm-eval ls tasks` lists lm-eval's, `tasks` adds your own"
        raise HexportError(f"unknown task {name!r}; {hint}")
    return _load(name, name, manager)


def _load(name: str, spec: str, manager: "TaskManager") -> dict[str, "Task"]:
    """Load the tasks of `spec`, a name that the manager knows or a path. Raises HexportError whatever goes wrong."""
    try:
        return manager.load([spec])["tasks"]
    except ConnectionError as error:
        raise HexportError(
            f"task {name}: its data set cannot be had: {one_line(error)}; go online, or use a local text, which works "
            "offline: tasks: {mine: {text: file.txt}}"
        ) from error
    except Exception as error:  # a task is its author's program and data set, and may raise anything
        raise HexportError(f"task {name}: lm-eval cannot load it: {one_line(error)}") from error


@functools.cache
def _manager(indexed: bool) -> "TaskManager":
    """Return lm-eval's manager. `indexed`: it knows lm-eval's tasks by name, for which it reads all of their files, in
    a few seconds.
    """
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=indexed)
