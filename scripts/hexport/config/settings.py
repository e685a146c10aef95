"""This module makes the typed config from config.yaml and devices.yaml, with defaults filled in."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hexport.config.devices import Device, read_devices
from hexport.config.documents import read_yaml
from hexport.config.prompts import conversations_of, with_read_prompts
from hexport.config.recipes import recipe_errors, resolve_recipes
from hexport.config.schema import defaults, nearest, raise_all, schema, schema_errors
from hexport.errors import HexportError
from hexport.targets.modes import LOOKAHEAD_KEYS
from hexport.targets.socs import socs_named

FILE_SOURCES = ("samples", "text")  # keys of calibration data that name a file
CALIBRATION_SOURCES = ("tasks", "prompts", *FILE_SOURCES)
AUTO = "auto"  # a value of num_sharding
BUILT_IN_MODELS = Path(__file__).with_name("models.yaml")


@dataclass(frozen=True, kw_only=True)
class CalibrationData:
    """Calibration data are what `calibration` of a model names: one of tasks, prompts, samples (a file of chats) and
    text (a file). `limit` documents of each task and `num_fewshot` examples go with tasks alone."""

    tasks: list[str] | None = None
    prompts: list[str] | None = None
    samples: str | None = None
    text: str | None = None
    limit: int | None = None
    num_fewshot: int | None = None

    @property
    def sources(self) -> dict[str, list[str] | str]:
        """Return the sources that are named, by their keys. A checked config has one."""
        found = {key: getattr(self, key) for key in CALIBRATION_SOURCES}
        return {key: value for key, value in found.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class EvaluationData:
    """Evaluation data are what `evaluation` of a model names: tasks, `limit` documents of each, `num_fewshot` examples
    before a question, the graph that scores, and the thresholds of gates."""

    tasks: list[str]
    limit: int | None = None
    num_fewshot: int | None = None
    graph: str = "prefill"
    max_perplexity_ratio: float | None = None
    min_sqnr_db: float | None = None


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model is an entry of `models`. Its fields are the keys of config.yaml, but for those that there may be several
    of.

    `prefill_ar_lens` and `seq_lens` have a value for each context length: the config's, or a default that fits.
    `conversations` are the `prompts`, the turns of each, whichever form they have in the config.
    """

    name: str
    checkpoint: str | None = None
    sha256: str | None
    params: str | None
    tokenizer: str | None
    recipes: list[str]
    modes: list[str]
    context_lens: list[int]
    prefill_ar_lens: dict[int, int]
    ngram: int
    window: int
    gcap: int
    num_sharding: int | str  # a number, or AUTO
    calibration: CalibrationData | None
    conversations: list[list[str]]
    system_prompt: str
    temperature: float
    seq_lens: dict[int, int]
    repeats: int
    warmup: int
    pre_gen_pte: str | None
    evaluation: EvaluationData | None

    @property
    def has_float_model(self) -> bool:
        """Return whether the model's programs are compared with the float model: ready ones are where a checkpoint is
        named."""
        return self.pre_gen_pte is None or (self.checkpoint is not None and self.evaluation is not None)

    def sizes(self, context_len: int) -> dict[str, int]:
        """Return the keys of config.yaml that are sizes of programs and runs, at one of the model's context lengths.

        Raises HexportError for a context length that the model does not have.
        """
        if context_len not in self.context_lens:
            has = " and ".join(map(str, self.context_lens))
            raise HexportError(f"models.{self.name}.max_seq_len: is {has}, and not {context_len}; add it there")
        lengths = {
            "max_seq_len": context_len,
            "prefill_ar_len": self.prefill_ar_lens[context_len],
            "seq_len": self.seq_lens[context_len],
        }
        return lengths | {key: getattr(self, key) for key in ("num_sharding", *LOOKAHEAD_KEYS)}


@dataclass(frozen=True, kw_only=True)
class Config:
    """A config is the content of config.yaml and of the devices.yaml that it names, with defaults filled in."""

    artifacts: str
    copies: str  # where a job reads artifacts: the same, or where their copies from a storage are
    build_memory_gb: float | None
    cache: str | None
    cache_gb: float
    socs: list[str]
    models: dict[str, Model]
    devices_file: str
    devices: dict[str, Device]
    recipes: dict[str, dict]  # every known recipe, built-in ones too, with its full content
    tasks: dict[str, dict]  # name -> {"text": path}, or {"yaml": path, "trusted": true}


def parse_config(document: dict, source: str) -> Config:
    """Return the config of a config.yaml's content and of the devices.yaml that it names.

    Raises HexportError with a line for each fault that can be seen without knowing how keys depend on each other.
    """
    raise_all(source, schema_errors(document, schema("config")))
    document = defaults(schema("config")["properties"]) | document
    artifacts = document["artifacts"].rstrip("/") or "/"
    entries = {name: entry or {} for name, entry in document["models"].items()}
    raise_all(source, [*recipe_errors(document["recipes"]), *_missing_checkpoints(entries)])
    entries = with_read_prompts(entries, source)
    return Config(
        artifacts=artifacts,
        copies=artifacts,
        build_memory_gb=document["build_memory_gb"],
        cache=document["cache"],
        cache_gb=document["cache_gb"],
        socs=socs_named(document["socs"]),
        models={name: _model(name, entry) for name, entry in entries.items()},
        devices_file=document["devices"],
        devices=read_devices(document["devices"]),
        recipes=resolve_recipes(document["recipes"]),
        tasks=document["tasks"],
    )


def model_and_recipe(config: Config, source: str, name: str, recipe: str | None) -> tuple[Model, str]:
    """Return a model that a command names, and the name of its recipe, which is the model's first unless one is given.

    Raises HexportError where the config, which `source` names, has no such model or recipe.
    """
    if name not in config.models:
        raise HexportError(f"{source}: there is no model {name!r}{nearest(name, config.models)}")
    recipe = recipe or config.models[name].recipes[0]
    if recipe not in config.recipes:
        raise HexportError(f"--recipe: unknown recipe {recipe!r}{nearest(recipe, config.recipes)}")
    return config.models[name], recipe


@cache
def built_in_models() -> dict[str, dict]:
    """Return the entries of the models that come with hexport, by name, with keys of config.yaml."""
    return read_yaml(BUILT_IN_MODELS)


def _missing_checkpoints(entries: dict[str, dict]) -> Iterator[str]:
    for name, entry in entries.items():
        if name in built_in_models() or "checkpoint" in entry:
            continue
        if entry.get("pre_gen_pte") is None:
            hint = nearest(name, built_in_models()).replace("known:", "built-in models:")
            yield f"models.{name}.checkpoint: missing, and there is no built-in model of this name{hint}"
        elif entry.get("tokenizer") is None:
            yield f"models.{name}.tokenizer: missing; pre_gen_pte needs a tokenizer, or a checkpoint that has one"


def _model(name: str, entry: dict) -> Model:
    built_in = built_in_models().get(name, {})
    if "checkpoint" in entry:  # the built-in SHA-256 is that of the built-in checkpoint
        built_in = {key: value for key, value in built_in.items() if key != "sha256"}
    values = defaults(schema("config")["$defs"]["model"]["properties"]) | built_in | entry
    context_lens = [int(length) for length in _listed(values.pop("max_seq_len"))]  # 64.0 is a whole number in YAML, too
    values |= {"recipes": _listed(values.pop("recipe")), "context_lens": context_lens}
    values["conversations"] = conversations_of(values.pop("prompts"))
    for key in ("prefill_ar_len", "seq_len"):
        value = values.pop(key)
        as_it_is = key in entry or values["pre_gen_pte"] is not None  # a ready program has a context of its own
        values[f"{key}s"] = {length: value if as_it_is else min(value, length) for length in context_lens}
    data = {"calibration": CalibrationData, "evaluation": EvaluationData}
    values |= {key: kind(**values[key]) for key, kind in data.items() if values[key] is not None}
    values["temperature"] = float(values["temperature"])  # 0 and 0.0 are the same setting
    return Model(name=name, **values)


def _listed(value: object) -> list:
    return value if isinstance(value, list) else [value]
