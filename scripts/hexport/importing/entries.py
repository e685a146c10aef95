"""This module tells what a command of the reference script stands for: entries of config.yaml and devices.yaml, and a
target of Snakemake."""

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass

from hexport.config.settings import built_in_models
from hexport.errors import HexportError
from hexport.importing.command import DEFAULTS

ALIASES = {"llama3_2": "llama3_2-1b_instruct"}  # a name that old commands use


@dataclass
class Entries:
    """Entries are what a command stands for. `model` has keys of models.<name>, and `device` a name in devices.yaml and
    its entry. `target` is what the command would make, and `notes` are lines for the user."""

    name: str
    model: dict
    soc: str
    device: tuple[str, dict]
    target: str
    notes: list[str]


def entries_of(flags: argparse.Namespace, notes: list[str], models: Mapping[str, dict | None]) -> Entries:
    """Return what a command stands for. `models` are those that the config has already, by name.

    Raises HexportError where the command does not name a model or a SoC, or needs a checkpoint.
    """
    if flags.decoder_model is None:
        raise HexportError("the command: --decoder_model is missing; name the model")
    if flags.soc_model is None or "$" in flags.soc_model:
        unset = f", and {flags.soc_model} is not set" if flags.soc_model else ""
        raise HexportError(f"the command: -m names the SoC{unset}; give its name, such as SM8650")
    name = ALIASES.get(flags.decoder_model, flags.decoder_model)
    notes = list(notes)
    if name != flags.decoder_model:
        notes.append(f"--decoder_model {flags.decoder_model}: is an old name, taken for {name}")
    if name not in built_in_models() and flags.checkpoint is None:
        raise HexportError(f"the command: --decoder_model {name} is not built in; add --checkpoint")
    model = _files(flags, notes) | _sizes(flags, notes) | _data(flags, name in models, notes)
    if flags.pre_gen_pte and name in models and not (models[name] or {}).get("pre_gen_pte"):
        notes.append("--pre_gen_pte: what hexport has built is kept, and only what the command changes is made")
    elif flags.pre_gen_pte:
        model["pre_gen_pte"] = flags.pre_gen_pte
    if flags.quant_attrs_path:
        notes.append("--quant_attrs_path: a program says itself how its logits are coded")
    target = "export" if flags.compile_only else "evaluate" if "evaluation" in model else "run"
    return Entries(name, model, flags.soc_model, _device(flags, notes), target, notes)


def _files(flags: argparse.Namespace, notes: list[str]) -> dict:
    if flags.tokenizer_bin:
        notes.append("--tokenizer_bin: is made from the tokenizer, where it has a *.model (`snakemake tokenizers`)")
    named = {"checkpoint": flags.checkpoint, "params": flags.params, "tokenizer": flags.tokenizer_model}
    return {key: value for key, value in named.items() if value is not None}


def _sizes(flags: argparse.Namespace, notes: list[str]) -> dict:
    mode, longest = flags.model_mode or DEFAULTS["model_mode"], flags.max_seq_len or DEFAULTS["max_seq_len"]
    model = {"modes": [mode], "max_seq_len": flags.max_context_len or longest, "seq_len": longest}
    if mode != "kv":
        model["prefill_ar_len"] = flags.prefill_ar_len or DEFAULTS["prefill_ar_len"]
    elif flags.prefill_ar_len is not None:
        notes.append("--prefill_ar_len: mode kv has no prefill graph")
    for key in ("ngram", "window", "gcap", "num_sharding"):
        if (value := getattr(flags, key)) is not None:
            model[key] = value
    if mode == "lookahead":
        if flags.temperature:
            notes.append(f"--temperature {flags.temperature:g}: lookahead decoding is greedy")
    elif flags.temperature is not None:
        model["temperature"] = int(flags.temperature) if flags.temperature % 1 == 0 else flags.temperature
    else:
        notes.append("--temperature: the script samples at 0.8 unless told otherwise, and hexport answers greedily")
    return model


def _data(flags: argparse.Namespace, known: bool, notes: list[str]) -> dict:
    """Return prompts, calibration and evaluation. The calibration of a model that is there already stays, where the
    command takes programs that are made."""
    of_all = {"tasks": flags.tasks, "limit": flags.limit, "num_fewshot": flags.num_fewshot}
    calibration = _tasks(flags.calib_tasks, flags.calib_limit, flags.calib_num_fewshot) or _tasks(**of_all)
    methods = flags.eval_methods or []
    evaluates = flags.eval_perplexity or "tasks_eval" in methods
    evaluation = _tasks(flags.eval_tasks, flags.eval_limit, flags.eval_num_fewshot) or _tasks(**of_all)
    if "sqnr_eval" in methods:
        notes.append("--eval_methods sqnr_eval: every evaluation has the SQNR; give tasks_eval its tasks")
    if evaluates and not evaluation:
        notes.append("--eval_perplexity: names no --tasks, so nothing is evaluated")
    prompts = flags.prompt if flags.prompt and not evaluates else None
    if flags.prompt and evaluates:
        notes.append("--prompt: is not answered where perplexity is evaluated")
    if flags.calib_samples:
        first, *others = flags.calib_samples
        calibration = {"samples": first}
        notes += [f"--calib_samples {file}: put its chats into {first}" for file in others]
    elif not calibration and flags.prompt:
        calibration = {"prompts": flags.prompt}
        notes.append("calibration: the prompt alone, as the script does; without this key, hexport's own set is used")
    found = {"prompts": prompts, "system_prompt": flags.system_prompt}
    found["calibration"] = None if known and flags.pre_gen_pte else calibration
    found["evaluation"] = evaluation if evaluates else None
    return {key: value for key, value in found.items() if value}


def _tasks(tasks: list[str] | None, limit: int | None, num_fewshot: int | None) -> dict:
    if not tasks:
        return {}
    return {"tasks": tasks, "limit": limit or DEFAULTS["limit"]} | ({"num_fewshot": num_fewshot} if num_fewshot else {})


def _device(flags: argparse.Namespace, notes: list[str]) -> tuple[str, dict]:
    """Return the name and entry of the phone; without a serial number, those of the emulator of this machine."""
    if flags.device is None or flags.enable_x86_64:
        if not flags.enable_x86_64:
            notes.append("devices.yaml: without -s, programs run on this machine's emulator; remove it for a phone")
        return "emulator", {"kind": "emulator", "soc": flags.soc_model}
    name = "phone-" + (re.sub(r"[^A-Za-z0-9._-]+", "", flags.device) or "1")
    device = {"kind": "adb", "serial": flags.device, "soc": flags.soc_model}
    if flags.build_folder:
        device["build_path"] = flags.build_folder
    if flags.host:
        device["adb_server"] = {"host": flags.host}
    notes.append(f"devices.yaml: {name}: QNN_SDK_ROOT, or qnn_sdk there, names the SDK whose libraries go to the phone")
    return name, device
