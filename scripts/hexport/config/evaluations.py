"""What to evaluate, to gate and to report, and what each of these files depends on."""

from hexport.config.checks import GATES
from hexport.config.devices import devices_at
from hexport.config.matrix import as_settings, places, run_places, toolchain_versions
from hexport.config.places import Place, device_file, fp_file, qdq_file
from hexport.config.settings import Config, Model
from hexport.config.tasks import local_texts, task_files, trusted_files
from hexport.errors import HexportError
from hexport.targets.modes import MODES


def evaluations(config: Config) -> list[str]:
    """All three phases of every model that has `evaluation`, on every emulator of a SoC that is exported for
    and once on the phones of each."""
    built = [model for model in _evaluated(config) if model.pre_gen_pte is None]
    return [
        *(fp_file(config.artifacts, model.name) for model in built),
        *(qdq_file(config.artifacts, model.name, model.recipe) for model in built),
        *(device_file(config.artifacts, place) for model in _evaluated(config) for place in places(config, model)),
    ]


def gates(config: Config) -> list[str]:
    """The gates of every model that has some."""
    return [file for model in config.models.values() for file in gate(config, model.name, model.recipe)]


def gate(config: Config, model: str, recipe: str) -> list[str]:
    """The file that says that the recipe's quantised model passes the model's gates; none where there are no gates."""
    spec = config.models[model]
    if spec.pre_gen_pte is not None or not _thresholds(spec):
        return []
    return [f"{config.artifacts}/{model}/{recipe}/evaluation/gates.json"]


def summary(config: Config) -> list[str]:
    """The table of all evaluations, if there are any."""
    return [f"{config.artifacts}/report/summary.csv"] if any(_evaluated(config)) else []


def reports(config: Config) -> list[str]:
    """The page of all evaluations and runs, and their table if there are evaluations."""
    return [f"{config.artifacts}/report/index.html", *summary(config)]


def float_model(config: Config, model: str, recipe: str) -> dict[str, str]:
    """What a program is compared with, by the scripts' names of it; nothing where the program is a ready one."""
    if config.models[model].pre_gen_pte is not None:
        return {}
    folder = f"{config.artifacts}/{model}"
    return {
        "checkpoint": f"{folder}/checkpoint/model.safetensors",
        "quant-attrs": f"{folder}/{recipe}/quant_attrs.json",
        "fp": fp_file(config.artifacts, model),
    }


def evaluation_files(config: Config, model: str) -> list[str]:
    """The files of the model's evaluation tasks: local texts, and trusted task files with their parts."""
    return task_files(config, (config.models[model].evaluation or {}).get("tasks", []))


def task_options(config: Config, model: str) -> list[str]:
    """Options that hand the local texts among them to the scripts."""
    names = (config.models[model].evaluation or {}).get("tasks", [])
    return [word for name, file in local_texts(config, names).items() for word in ("--local", f"{name}={file}")]


def fp_settings(config: Config, model: str) -> str:
    """Raises HexportError where the model has no `evaluation`."""
    return as_settings({**_data(config, model), "max_seq_len": config.models[model].max_seq_len})


def qdq_settings(config: Config, model: str, recipe: str) -> str:
    """Raises HexportError where the model has no `evaluation`."""
    spec = {"max_seq_len": config.models[model].max_seq_len, "recipe_spec": config.recipes[recipe]}
    return as_settings({**_data(config, model), **spec, "recipe": recipe})


def device_settings(config: Config, place: Place) -> str:
    """Raises HexportError where the device cannot run such a program, or the model has no `evaluation`.

    `graph` is the one wanted: in mode kv, there is one only. The windows are those of the program's context length.
    """
    devices_at(config.devices, place.device, place.target)
    spec = config.models[place.model]
    return as_settings(
        {
            **_data(config, place.model),
            "model": place.model,
            "recipe": place.recipe,
            "target": place.target,
            "mode": place.mode,
            "graph": spec.evaluation.get("graph", "prefill") if MODES[place.mode].prefills else "kv",
            "recipe_spec": config.recipes[place.recipe] if spec.pre_gen_pte is None else None,
            "versions": toolchain_versions(),
        }
    )


def gate_settings(config: Config, model: str) -> str:
    """Raises HexportError where the model has no gates."""
    thresholds = _thresholds(config.models[model])
    if not thresholds:
        raise HexportError(f"models.{model}.evaluation: no gate is set; set {' or '.join(GATES)}")
    return as_settings({"model": model, **thresholds})


def summary_settings(config: Config) -> str:
    return as_settings(_evaluated_places(config))


def report_settings(config: Config) -> str:
    return as_settings({**_evaluated_places(config), "runs": run_places(config)})


def _evaluated_places(config: Config) -> dict:
    """`evaluations`: places of programs, and whether they are built, so that fp and qdq figures are to be had.

    A model without a device has one, in no place.
    """
    found = []
    for model in _evaluated(config):
        where = places(config, model) or [Place(model.name, model.recipe, "", "", "")]
        found += [[*place, model.pre_gen_pte is None] for place in where]
    return {"artifacts": config.artifacts, "evaluations": found}


def _evaluated(config: Config) -> list[Model]:
    return [model for model in config.models.values() if model.evaluation is not None]


def _data(config: Config, model: str) -> dict:
    """What all phases score, in windows of the context length: the same tokens behind the same context in each.

    `trusted` are the files of those tasks that the user lets run code, by name.
    """
    spec = config.models[model]
    if spec.evaluation is None:
        raise HexportError(f"models.{model}.evaluation: missing, so there is nothing to evaluate; give its tasks")
    data = {key: spec.evaluation.get(key) for key in ("tasks", "limit", "num_fewshot")}
    return data | {"trusted": trusted_files(config, data["tasks"])}


def _thresholds(model: Model) -> dict[str, float]:
    """Threshold of each gate that is set."""
    values = {key: (model.evaluation or {}).get(key) for key in GATES}
    return {key: float(value) for key, value in values.items() if value is not None}
