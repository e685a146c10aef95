"""This module says what to evaluate, to gate and to report, and what each of these files depends on."""

from hexport.build.artifacts import (
    Place,
    ProgramKey,
    checkpoint_file,
    evaluation_file,
    fp_file,
    gates_file,
    qdq_file,
    quant_attrs_file,
    ready_gates_file,
    report_file,
    summary_file,
)
from hexport.build.matrix import (
    as_settings,
    local_options,
    names_of,
    places,
    programs_to_build,
    run_places,
    toolchain_versions,
    used_recipes,
    weights,
)
from hexport.config.checks import GATES
from hexport.config.devices import devices_at
from hexport.config.settings import Config, Model
from hexport.config.tasks import task_files, trusted_files
from hexport.errors import HexportError
from hexport.targets.modes import MODES


def evaluations(config: Config) -> list[str]:
    """Return the files of all phases of every model that has `evaluation`: the float model, the fake-quantised ones,
    and the programs on every emulator of a SoC that is exported for and once on the phones of each."""
    evaluated = _evaluated(config)
    built = [model for model in evaluated if model.pre_gen_pte is None]
    compared = [model for model in evaluated if model.has_float_model]
    return [
        *(fp_file(config.artifacts, model.name, length) for model in compared for length in model.context_lens),
        *(qdq_file(config.artifacts, model.name, *version) for model in built for version in _versions(config, model)),
        *(evaluation_file(config.artifacts, place) for model in evaluated for place in places(config, model)),
    ]


def gates(config: Config) -> list[str]:
    """Return the files that say that quantised models pass their gates, of every model that has some."""
    return [
        file
        for model in config.models.values()
        for version in _versions(config, model)
        for file in gate(config, model.name, *version)
    ]


def gate(config: Config, model: str, recipe: str, context_len: int) -> list[str]:
    """Return the file that says that the recipe's quantised model passes the model's gates. The list is empty where
    there are no gates, and for ready programs."""
    spec = config.models[model]
    if spec.pre_gen_pte is not None or not _thresholds(spec):
        return []
    return [gates_file(config.artifacts, model, recipe, context_len)]


def ready_gates(config: Config) -> list[str]:
    """Return the files that say that ready programs pass their gates, whose figures only a device can tell."""
    return [
        ready_gates_file(config.artifacts, place)
        for model in _evaluated(config)
        if model.pre_gen_pte is not None and _thresholds(model)
        for place in places(config, model)
    ]


def summary_files(config: Config) -> list[str]:
    """Return the file of the table of all evaluations, if there are any."""
    return [summary_file(config.artifacts)] if any(_evaluated(config)) else []


def reports(config: Config) -> list[str]:
    """Return the file of the page of all evaluations and runs, and that of their table if there are evaluations."""
    return [report_file(config.artifacts), *summary_files(config)]


def float_model(config: Config, model: str, recipe: str, context_len: int) -> dict[str, str]:
    """Return the files that a program is compared with, by the scripts' names of them. A ready program is compared with
    the float model alone, or with nothing: then the dict is empty."""
    spec = config.models[model]
    if not spec.has_float_model:
        return {}
    exact = {
        "checkpoint": checkpoint_file(config.artifacts, model),
        "fp": fp_file(config.artifacts, model, context_len),
    }
    if spec.pre_gen_pte is not None:
        return exact
    coded = weights(config, model, recipe)
    quantised = {"quant_attrs": quant_attrs_file(config.artifacts, model, recipe)}
    return exact | quantised | ({"weights": coded[0]} if coded else {})


def evaluation_files(config: Config, model: str) -> list[str]:
    """Return the files of the model's evaluation tasks: local texts, and trusted task files with their parts."""
    return task_files(config, _tasks(config, model))


def task_options(config: Config, model: str) -> list[str]:
    """Return the words of the options that hand the local texts among the model's evaluation tasks to the scripts."""
    return local_options(config, _tasks(config, model))


def fp_settings(config: Config, model: str, context_len: int) -> str:
    """Return the settings of `evaluate_fp`. Raises HexportError where the model has no `evaluation`, or not this
    context length."""
    return as_settings(_data_in_windows(config, model, context_len))


def qdq_settings(config: Config, model: str, recipe: str, context_len: int) -> str:
    """Return the settings of `evaluate_qdq`. Raises HexportError where the model has no `evaluation`, or not this
    context length."""
    data = _data_in_windows(config, model, context_len)
    return as_settings({**data, "recipe_spec": config.recipes[recipe], "recipe": recipe})


def device_settings(config: Config, place: Place) -> str:
    """Return the settings of `evaluate_device`.

    `graph` names the graph that is wanted; a program of mode kv has only one. The windows are those of the program's
    context length; a ready program that is compared must have the model's. Raises HexportError where the device cannot
    run such a program, or the model has no `evaluation`.
    """
    devices_at(config.devices, place.device, place.target)
    spec = config.models[place.model]
    return as_settings(
        _data(config, place.model)
        | names_of(place)
        | {
            "graph": spec.evaluation.graph if MODES[place.mode].prefills else "kv",
            "recipe_spec": config.recipes[place.recipe] if spec.pre_gen_pte is None else None,
            "versions": toolchain_versions(),
        }
        | ({"max_seq_len": place.context_length} if spec.pre_gen_pte and spec.has_float_model else {})
    )


def gate_settings(config: Config, model: str) -> str:
    """Return the settings of `check_gates`: the thresholds of the model's gates. Raises HexportError where
    it has none."""
    thresholds = _thresholds(config.models[model])
    if not thresholds:
        raise HexportError(f"models.{model}.evaluation: no gate is set; set {' or '.join(GATES)}")
    return as_settings({"model": model, **thresholds})


def summary_settings(config: Config) -> str:
    """Return the settings of `write_summary`: the places of all that is evaluated."""
    return as_settings(_evaluated_places(config))


def report_settings(config: Config) -> str:
    """Return the settings of `write_report`: the places of all that is evaluated or run, and the programs to list."""
    runs = run_places(config)
    built = [place for place in runs if config.models[place.model].pre_gen_pte is None]
    of_runs = [ProgramKey(*place[:4], place.mode) for place in built]  # `export` builds none for emulators
    programs = list(dict.fromkeys([*programs_to_build(config), *of_runs]))
    return as_settings({**_evaluated_places(config), "runs": runs, "programs": programs})


def _evaluated_places(config: Config) -> dict:
    """Return `evaluations`: each is a place, followed by the phases besides `device` whose figures are to be had. A
    model that no device evaluates has empty texts as target, device and mode."""
    found = []
    for model in _evaluated(config):
        on_devices = places(config, model)
        for version in _versions(config, model):
            where = [place for place in on_devices if (place.recipe, place.context_length) == version]
            where = where or [Place(model.name, *version, "", "", "")]
            phases = ["fp", "qdq"] if model.pre_gen_pte is None else ["fp"] if model.has_float_model else []
            found += [[*place, phases] for place in where]
    return {"artifacts": config.copies, "evaluations": found}


def _evaluated(config: Config) -> list[Model]:
    return [model for model in config.models.values() if model.evaluation is not None]


def _tasks(config: Config, model: str) -> list[str]:
    evaluation = config.models[model].evaluation
    return evaluation.tasks if evaluation else []


def _versions(config: Config, model: Model) -> list[tuple[str, int]]:
    """Return the recipe and context length of each quantised model that is made of a model."""
    return [(recipe, context_len) for recipe in used_recipes(config, model) for context_len in model.context_lens]


def _data_in_windows(config: Config, model: str, context_len: int) -> dict:
    return _data(config, model) | {"max_seq_len": config.models[model].sizes(context_len)["max_seq_len"]}


def _data(config: Config, model: str) -> dict:
    """Return what all phases score: the same tokens behind the same context in each, in windows of the context length.

    `trusted` maps the names of those tasks that the user lets run code to their files. Raises HexportError where the
    model has no `evaluation`.
    """
    spec = config.models[model]
    if spec.evaluation is None:
        raise HexportError(f"models.{model}.evaluation: missing, so there is nothing to evaluate; give its tasks")
    data = {key: getattr(spec.evaluation, key) for key in ("tasks", "limit", "num_fewshot")}
    return data | {"trusted": trusted_files(config, data["tasks"])}


def _thresholds(model: Model) -> dict[str, float]:
    """Return the threshold of each gate that is set."""
    values = {key: getattr(model.evaluation, key, None) for key in GATES}
    return {key: float(value) for key, value in values.items() if value is not None}
