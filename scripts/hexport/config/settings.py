"""The typed config: config.yaml and devices.yaml with defaults filled in."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hexport.config.devices import Device, read_devices
from hexport.config.documents import read_yaml
from hexport.config.recipes import recipe_errors, resolve_recipes
from hexport.config.schema import defaults, nearest, raise_all, schema, schema_errors

BUILT_IN_MODELS = Path(__file__).with_name("models.yaml")


@dataclass(frozen=True, kw_only=True)
class Model:
    """An entry of `models`; the keys are those of config.yaml."""

    name: str
    checkpoint: str | None = None
    sha256: str | None
    params: str | None
    tokenizer: str | None
    recipe: str
    modes: list[str]
    max_seq_len: int
    prefill_ar_len: int
    ngram: int
    window: int
    gcap: int
    num_sharding: int
    calibration: dict | None
    prompts: list[str]
    system_prompt: str
    temperature: float
    seq_len: int
    repeats: int
    warmup: int
    pre_gen_pte: str | None
    evaluation: dict | None


@dataclass(frozen=True, kw_only=True)
class Config:
    artifacts: str
    socs: list[str]
    models: dict[str, Model]
    devices_file: str
    devices: dict[str, Device]
    recipes: dict[str, dict]  # every known recipe, built-in ones too, with its full content
    tasks: dict[str, dict]  # name -> {"text": path}, or {"yaml": path, "trusted": true}


def parse_config(document: dict, source: str) -> Config:
    """Config of a config.yaml's content and of the devices.yaml that it names.

    Raises HexportError with a line for each fault that can be seen without knowing how keys depend on each other.
    """
    raise_all(source, schema_errors(document, "config"))
    document = defaults(schema("config")["properties"]) | document
    entries = {name: entry or {} for name, entry in document["models"].items()}
    raise_all(source, [*recipe_errors(document["recipes"]), *_missing_checkpoints(entries)])
    return Config(
        artifacts=document["artifacts"].rstrip("/") or "/",
        socs=document["socs"],
        models={name: _model(name, entry) for name, entry in entries.items()},
        devices_file=document["devices"],
        devices=read_devices(document["devices"]),
        recipes=resolve_recipes(document["recipes"]),
        tasks=document["tasks"],
    )


@cache
def built_in_models() -> dict[str, dict]:
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
    if values["pre_gen_pte"] is None:  # a ready program has a context length of its own
        for key in ("prefill_ar_len", "seq_len"):
            if key not in entry:
                values[key] = min(values[key], values["max_seq_len"])
    values["temperature"] = float(values["temperature"])  # 0 and 0.0 are the same setting
    return Model(name=name, **values)
