"""This module says what to build, and what each artifact depends on.

A `…_settings` function returns the projection of the config that one artifact depends on, as one JSON text with sorted
keys. The artifact's script reads it, and a change of it makes the artifact stale, so nothing else belongs in it.
`calibrate`, for one, gets `{"model": "stories110m", "recipe": "16a8w", "recipe_spec": {"activation_bits": 16, …}}`.
"""

import json
import os
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from itertools import chain
from pathlib import Path

from hexport.build.artifacts import (
    Place,
    ProgramKey,
    program_file,
    quant_attrs_file,
    result_file,
    tokenizer_file,
    weights_file,
)
from hexport.build.sources import downloads, is_hub, tokenizer_forms
from hexport.code_digest import TOOLCHAIN
from hexport.config.checks import check_greedy, unfit_recipes
from hexport.config.devices import Device, devices_at, stations
from hexport.config.prompts import prompts_of
from hexport.config.ready_programs import ready_program
from hexport.config.settings import FILE_SOURCES, CalibrationData, Config, Model
from hexport.config.tasks import local_texts, task_files, trusted_files
from hexport.config.uris import is_remote
from hexport.errors import HexportError
from hexport.file_hashes import sha256
from hexport.quantization.calibration_set import set_digest
from hexport.quantization.recipe_checks import recipe_from
from hexport.targets.modes import LOOKAHEAD_KEYS, MODES
from hexport.targets.target import target_named


def tokenizers(config: Config) -> list[str]:
    """Return the files of every model's tokenizer, in all forms that its source is known to have."""
    return [
        tokenizer_file(config.artifacts, name, form)
        for name, model in config.models.items()
        for form in tokenizer_forms(model)
    ]


def quant_attrs(config: Config) -> list[str]:
    """Return the quant attrs of every model that has no ready programs, for each of its recipes that some
    SoC can run."""
    return [
        quant_attrs_file(config.artifacts, name, recipe)
        for name, model in config.models.items()
        if model.pre_gen_pte is None
        for recipe in used_recipes(config, model)
    ]


def weights(config: Config, model: str, recipe: str) -> list[str]:
    """Return the file of the weights that are coded by calibration data. The list is empty where the recipe asks for no
    algorithm."""
    if not recipe_from(config.recipes[recipe], recipe).is_searched:
        return []
    return [weights_file(config.artifacts, model, recipe)]


def programs(config: Config) -> list[str]:
    """Return the file of each of the `programs_to_build`."""
    return [program(config, each) for each in programs_to_build(config)]


def programs_to_build(config: Config) -> list[ProgramKey]:
    """Return the programs of every model that has no ready ones, for every SoC with every recipe that it can run, in
    every context length and mode."""
    return [
        ProgramKey(name, recipe, context_len, soc, mode)
        for name, model in config.models.items()
        if model.pre_gen_pte is None
        for soc in config.socs
        for recipe in recipes_on(config, model, soc)
        for context_len in model.context_lens
        for mode in model.modes
    ]


def recipes_on(config: Config, model: Model, soc: str) -> list[str]:
    """Return those of the model's recipes that the SoC can run. A model's only recipe runs on every SoC, as
    `check_config` refuses any other."""
    if len(model.recipes) == 1:
        return model.recipes
    unfit = unfit_recipes(config, model, soc)
    return [name for name in model.recipes if name not in unfit]


def used_recipes(config: Config, model: Model) -> list[str]:
    """Return those of the model's recipes that some SoC of the config can run."""
    used = {name for soc in config.socs for name in recipes_on(config, model, soc)}
    return [name for name in model.recipes if name in used]


def program(config: Config, wanted: ProgramKey) -> str:
    """Return the file of a program, built or ready. Raises HexportError where a model's ready programs lack
    the mode."""
    if folder := config.models[wanted.model].pre_gen_pte:
        return ready_program(folder, wanted.mode)
    return program_file(config.artifacts, wanted)


def runs(config: Config) -> list[str]:
    """Return the result of each of the `run_places`."""
    return [result_file(config.artifacts, place) for place in run_places(config)]


def run_places(config: Config) -> list[Place]:
    """Return the places of every model that has prompts, wherever its programs run."""
    return [place for model in config.models.values() if model.conversations for place in places(config, model)]


def places(config: Config, model: Model) -> list[Place]:
    """Return the places of the model's programs, in every mode, on every emulator of a SoC that is exported for, and
    once on the phones of each."""
    return [
        Place(model.name, recipe, context_len, target, device, mode)
        for device, target in stations(_devices(config))
        for recipe in recipes_on(config, model, target_named(target).soc)
        for context_len in model.context_lens
        for mode in model.modes
    ]


def left_out(config: Config) -> Iterator[str]:
    """Yield a line for each model that is not in `quantize` and `export`, for each device of a SoC that is exported for
    but not in `run`, and for each recipe of a model that some SoC cannot run. Each line says why."""
    for model in config.models.values():
        if model.pre_gen_pte is not None:
            yield f"model {model.name} is left out of quantize and export: it runs the programs in {model.pre_gen_pte}"
        elif len(model.recipes) > 1:
            unfit = {soc: unfit_recipes(config, model, soc) for soc in config.socs}
            for recipe in model.recipes:
                if socs := [soc for soc in config.socs if recipe in unfit[soc]]:
                    reason = unfit[socs[0]][recipe]
                    yield f"recipe {recipe} of model {model.name} is left out for {', '.join(socs)}: {reason}"
    for device in _devices(config):
        if device.lacks:
            yield f"device {device.name} is left out of run and evaluate: {device.lacks}"


def _devices(config: Config) -> list[Device]:
    return [device for device in config.devices.values() if device.soc in config.socs]


def calibration_files(config: Config, model: str) -> list[str]:
    """Return the files that a model is calibrated on, also the texts and definitions of its tasks."""
    data = config.models[model].calibration or CalibrationData()
    files = [data.sources[key] for key in FILE_SOURCES if key in data.sources]
    return [*files, *task_files(config, data.tasks or [])]


def calibration_options(config: Config, model: str) -> list[str]:
    """Return the words of the options that hand these files to scripts/encode_calibration.py. A task's definition has
    none, as it is in the settings."""
    data = config.models[model].calibration or CalibrationData()
    words = [word for key in FILE_SOURCES if key in data.sources for word in (f"--{key}", data.sources[key])]
    return words + local_options(config, data.tasks or [])


def local_options(config: Config, tasks: list[str]) -> list[str]:
    """Return the words of the options that hand the local texts among the tasks to the scripts."""
    texts = local_texts(config, tasks)
    return [word for name, file in texts.items() for word in ("--local", f"{name}={file}")]


def fetch_settings(config: Config, download: str) -> str:
    """Return the settings of `fetch`: the URI, and whether a repository's weights are wanted, or a file's SHA-256."""
    uri = downloads(config)[download]
    models = [model for model in config.models.values() if model.checkpoint == uri]
    if is_hub(uri):
        return as_settings({"uri": uri, "weights": any(model.has_float_model for model in models)})
    return as_settings({"uri": uri, "sha256": next((model.sha256 for model in models if model.sha256), None)})


def checkpoint_settings(config: Config, model: str) -> str:
    """Return the settings of `convert_checkpoint`. They have `sha256` where `fetch` does not check it: where the
    checkpoint may have several files."""
    spec = config.models[model]
    fetch_checks = is_remote(spec.checkpoint) and not is_hub(spec.checkpoint)
    return as_settings({"sha256": None if fetch_checks else spec.sha256, "params": spec.params})


def tokenizer_settings() -> str:
    """Return the settings of the rules that make tokenizers, which depend on no key of the config."""
    return as_settings({})


def calibration_settings(config: Config, model: str) -> str:
    """Return the settings of `encode_calibration`."""
    spec = config.models[model]
    match spec.calibration:
        case None:
            own = {"prompts": list(chain.from_iterable(spec.conversations)), "system_prompt": spec.system_prompt}
            return as_settings(own | {"calibration_set": set_digest()})
        case CalibrationData(tasks=list(tasks), limit=limit, num_fewshot=num_fewshot):
            limits = {"limit": limit, "num_fewshot": num_fewshot}
            texts, trusted = local_texts(config, tasks), trusted_files(config, tasks)
            return as_settings({"tasks": tasks, "texts": texts, "trusted": trusted, **limits})
        case CalibrationData(prompts=list(prompts)):
            return as_settings({"prompts": prompts, "system_prompt": spec.system_prompt})
        case text_or_samples:
            return as_settings(text_or_samples.sources)


def quant_attrs_settings(config: Config, model: str, recipe: str) -> str:
    """Return the settings of all that measures or codes a model with a recipe: `quantize_weights`, `calibrate` and
    `sensitivity`."""
    return as_settings({"model": model, "recipe": recipe, "recipe_spec": config.recipes[recipe]})


def run_settings(config: Config, place: Place) -> str:
    """Return the settings of `run_program`. Raises HexportError where the device cannot run such a program, where the
    mode must be greedy and the model samples, and where the model has no prompts."""
    devices_at(config.devices, place.device, place.target)
    spec = config.models[place.model]
    sizes = spec.sizes(place.context_length)
    if not spec.conversations:
        raise HexportError(f"models.{place.model}.prompts: missing, so there is nothing to run; give prompts")
    if MODES[place.mode].looks_ahead:
        check_greedy(spec)
    return as_settings(
        names_of(place)
        | {
            "prompts": prompts_of(spec.conversations),
            "system_prompt": spec.system_prompt,
            "temperature": spec.temperature,
            "seq_len": sizes["seq_len"],
            "repeats": spec.repeats,
            "warmup": spec.warmup,
            "versions": toolchain_versions(),
        }
        | {key: sizes[key] for key in LOOKAHEAD_KEYS if MODES[place.mode].looks_ahead}
    )


@cache
def toolchain_versions() -> dict[str, str]:
    """Return the versions of what makes a program, without importing any of it. Raises HexportError where a package is
    not installed, and where QNN_SDK_ROOT names a folder without the HTP compiler."""
    try:
        versions = {package: metadata.version(package) for package in TOOLCHAIN}
        return versions | {"qnn": _sdk_identity() or f"onnxruntime-qnn {metadata.version('onnxruntime-qnn')}"}
    except metadata.PackageNotFoundError as error:
        raise HexportError(f"{error.name} is not installed: run `make setup`") from None


def _sdk_identity() -> str | None:
    """Return the file name and a digest of the HTP compiler in the SDK that QNN_SDK_ROOT names; None where it names
    none."""
    root = os.environ.get("QNN_SDK_ROOT")
    if not root:
        return None
    library = Path(root, "lib/x86_64-linux-clang/libQnnHtp.so")
    if not library.is_file():
        raise HexportError(f"QNN_SDK_ROOT={root}: {library.relative_to(root)} is missing; unset it or name a QNN SDK")
    return f"libQnnHtp.so {sha256(library)[:16]}"


def names_of(program: Place | ProgramKey) -> dict[str, str]:
    """Return what names a program in settings."""
    return {key: getattr(program, key) for key in ("model", "recipe", "target", "mode")}


def as_settings(projection: dict) -> str:
    """Return the JSON text of a projection, with sorted keys."""
    return json.dumps(projection, sort_keys=True, ensure_ascii=False)
