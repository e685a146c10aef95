"""What to build, and what each artifact depends on.

A `…_settings` function is the projection of the config that one artifact depends on, as one JSON text with sorted
keys: it is what a script is given, and a change of it is what makes the artifact stale. Nothing else belongs in it.
"""

import json
import os
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

from hexport.config.checks import check_greedy, check_kv_bits, check_lookahead_size
from hexport.config.ready_programs import program_name, ready_program
from hexport.config.settings import Config, Device
from hexport.config.sources import downloads, is_hub, is_remote, tokenizer_forms
from hexport.errors import HexportError
from hexport.provenance import sha256

LOOKAHEAD_KEYS = ("ngram", "window", "gcap")
# What a program of each mode depends on, beside its target, recipe and toolchain.
PROGRAM_KEYS = {
    "kv": ("max_seq_len", "num_sharding"),
    "hybrid": ("max_seq_len", "num_sharding", "prefill_ar_len"),
    "lookahead": ("max_seq_len", "num_sharding", "prefill_ar_len", *LOOKAHEAD_KEYS),
}
TOOLCHAIN = ("executorch", "torch")


def tokenizers(config: Config) -> list[str]:
    """Every model's tokenizer, in all forms that its source is known to have."""
    return [
        f"{config.artifacts}/{name}/tokenizer/{form}"
        for name, model in config.models.items()
        for form in tokenizer_forms(model)
    ]


def quant_attrs(config: Config) -> list[str]:
    """Those of every model that has no ready programs."""
    return [
        f"{config.artifacts}/{name}/{model.recipe}/quant_attrs.json"
        for name, model in config.models.items()
        if model.pre_gen_pte is None
    ]


def programs(config: Config) -> list[str]:
    """Those to build: every model that has no ready ones, in every mode, for every SoC."""
    return [
        program(config, name, model.recipe, soc, mode)
        for name, model in config.models.items()
        if model.pre_gen_pte is None
        for soc in config.socs
        for mode in model.modes
    ]


def program(config: Config, model: str, recipe: str, target: str, mode: str) -> str:
    """The program of a run. Raises HexportError where a model's ready programs lack the mode."""
    if folder := config.models[model].pre_gen_pte:
        return ready_program(folder, mode)
    return f"{config.artifacts}/{model}/{recipe}/{target}/{program_name(mode)}"


def runs(config: Config) -> list[str]:
    """Every model that has prompts, in every mode, on every emulator of a SoC that is exported for."""
    return [
        f"{config.artifacts}/{name}/{model.recipe}/{device.target}/{device.name}/{mode}/result.json"
        for name, model in config.models.items()
        if model.prompts
        for device in _devices(config)
        if device.kind == "emulator"
        for mode in model.modes
    ]


def left_out(config: Config) -> Iterator[str]:
    """Why a model is not in `quantize` and `export`, or a device of a SoC that is exported for not in `run`."""
    for model in config.models.values():
        if model.pre_gen_pte is not None:
            yield f"model {model.name} is left out of quantize and export: it runs the programs in {model.pre_gen_pte}"
    for device in _devices(config):
        if device.kind == "adb":
            yield f"device {device.name} is left out of run: this version runs on emulators only"


def _devices(config: Config) -> list[Device]:
    return [device for device in config.devices.values() if device.soc in config.socs]


def calibration_text(config: Config, model: str) -> str | None:
    """The text file that a model is calibrated on, if it is a text file."""
    return (config.models[model].calibration or {}).get("text")


def fetch_settings(config: Config, download: str) -> str:
    uri = downloads(config)[download]
    models = [model for model in config.models.values() if model.checkpoint == uri]
    if is_hub(uri):
        return _settings({"uri": uri, "weights": any(model.pre_gen_pte is None for model in models)})
    return _settings({"uri": uri, "sha256": next((model.sha256 for model in models if model.sha256), None)})


def checkpoint_settings(config: Config, model: str) -> str:
    """`sha256` is checked here where `fetch` does not: where the checkpoint may have several files."""
    spec = config.models[model]
    fetch_checks = is_remote(spec.checkpoint) and not is_hub(spec.checkpoint)
    return _settings({"sha256": None if fetch_checks else spec.sha256, "params": spec.params})


def tokenizer_settings() -> str:
    return _settings({})


def calibration_settings(config: Config, model: str) -> str:
    spec = config.models[model]
    data = spec.calibration or {"prompts": spec.prompts}
    return _settings(data if "text" in data else {"prompts": data["prompts"], "system_prompt": spec.system_prompt})


def quant_attrs_settings(config: Config, model: str, recipe: str) -> str:
    return _settings({"model": model, "recipe": recipe, "recipe_spec": config.recipes[recipe]})


def program_settings(config: Config, model: str, recipe: str, target: str, mode: str) -> str:
    """Raises HexportError where the target cannot run the recipe, or the mode does not fit the context."""
    spec = config.models[model]
    if mode == "lookahead":
        check_lookahead_size(spec)
    soc = target.removesuffix("-emulator")
    check_kv_bits(f"recipe {recipe}", config.recipes[recipe], soc)
    return _settings(
        {
            "mode": mode,
            "target": target,
            "soc": soc,
            "emulator": target.endswith("-emulator"),
            "recipe_spec": config.recipes[recipe],
            "versions": toolchain_versions(),
        }
        | {key: getattr(spec, key) for key in PROGRAM_KEYS[mode]}
    )


def run_settings(config: Config, model: str, recipe: str, target: str, device: str, mode: str) -> str:
    """Raises HexportError where the device cannot run such a program, the mode cannot sample, or no prompts are."""
    if config.devices[device].kind != "emulator":
        raise HexportError(f"device {device}: this version runs on emulators only")
    if config.devices[device].target != target:
        raise HexportError(f"device {device} runs programs for {config.devices[device].target}, not for {target}")
    spec = config.models[model]
    if not spec.prompts:
        raise HexportError(f"models.{model}.prompts: missing, so there is nothing to run; give prompts")
    if mode == "lookahead":
        check_greedy(spec)
    return _settings(
        {
            "model": model,
            "recipe": recipe,
            "target": target,
            "mode": mode,
            "prompts": spec.prompts,
            "system_prompt": spec.system_prompt,
            "temperature": spec.temperature,
            "seq_len": spec.seq_len,
        }
        | {key: getattr(spec, key) for key in LOOKAHEAD_KEYS if mode == "lookahead"}
    )


@cache
def toolchain_versions() -> dict[str, str]:
    """Versions of what makes a program, without importing any of it."""
    try:
        versions = {package: metadata.version(package) for package in TOOLCHAIN}
        return versions | {"qnn": _sdk_identity() or f"onnxruntime-qnn {metadata.version('onnxruntime-qnn')}"}
    except metadata.PackageNotFoundError as error:
        raise HexportError(f"{error.name} is not installed: run `make setup`") from None


def _sdk_identity() -> str | None:
    """The HTP compiler of the SDK that QNN_SDK_ROOT names, if it names one, by its bytes."""
    root = os.environ.get("QNN_SDK_ROOT")
    if not root:
        return None
    library = Path(root, "lib/x86_64-linux-clang/libQnnHtp.so")
    if not library.is_file():
        raise HexportError(f"QNN_SDK_ROOT={root}: {library.relative_to(root)} is missing; unset it or name a QNN SDK")
    return f"libQnnHtp.so {sha256(library)[:16]}"


def _settings(projection: dict) -> str:
    return json.dumps(projection, sort_keys=True, ensure_ascii=False)
