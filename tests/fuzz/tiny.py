"""A tiny model as artifacts of the workflow: canonical checkpoint, token ids, quant attrs and a program."""

import importlib
import os
from pathlib import Path

import seeds
from case import Call
from cases_program import LOWER, NAMES
from commands import call

MODULES = (
    "hexport.decoder.weights", "hexport.devices.answers", "hexport.devices.emulator", "hexport.lowering.conformance",
    "hexport.lowering.inspection", "hexport.lowering.lower", "hexport.lowering.program_report",
    "hexport.quantization.calibration", "hexport.quantization.quant_attrs_checks", "hexport.quantization.seq_mse",
    "hexport.quantization.tokens_file", "hexport.runtime.program", "rich.console",
)  # fmt: skip


def import_all() -> None:
    """Import what scripts import while they run, before any case is forked."""
    from hexport.qnn_sdk import use_qnn_sdk

    use_qnn_sdk()
    for module in MODULES:
        importlib.import_module(module)


def build(folder: Path) -> None:
    """By the real scripts, each in a fork: what native libraries start does not reach the cases."""
    folder = folder.absolute()
    folder.mkdir(exist_ok=True)
    tokenizer = str(seeds.tokenizer() / "tokenizer.json")
    checkpoint, tokens = str(folder / "checkpoint/model.safetensors"), str(folder / "tokens.json")
    attrs, program = str(folder / "r/quant_attrs.json"), str(folder / "r/kv.pte")
    prompts = {"prompts": ["Once upon a time"], "system_prompt": ""}
    files = ["--source", str(seeds.hf()), "--output", checkpoint]
    _run(folder, Call("checkpoint", files, {"sha256": None, "params": None}))
    _run(folder, Call("calibration", ["--tokenizer", tokenizer, "--output", tokens], prompts))
    _run(folder, Call("quantize", ["--checkpoint", checkpoint, "--tokens", tokens, "--output", attrs], NAMES))
    files = ["--checkpoint", checkpoint, "--quant-attrs", attrs, "--tokenizer", tokenizer, "--output", program]
    _run(folder, Call("lower", files, LOWER))


def _run(folder: Path, made: Call) -> None:
    if not (child := os.fork()):
        os.chdir(folder)
        words = [*made.words, "--log", f"{made.command}.log"]
        os._exit(call(made._replace(words=words)))
    if os.waitpid(child, 0)[1]:
        raise RuntimeError((folder / f"{made.command}.log").read_text())
