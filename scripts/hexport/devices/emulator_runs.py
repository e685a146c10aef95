"""This module runs a program on the emulator of this host."""

from pathlib import Path

from hexport.config.devices import Device
from hexport.config.prompts import conversations_of
from hexport.devices.emulator_process import measure
from hexport.devices.measured import Measured
from hexport.progress import Progress


def run_on_emulator(device: Device, program: Path, tokenizer: Path, settings: dict, progress: Progress) -> Measured:
    """Hold the conversations that the settings of scripts/run_program.py name. tokenizer: …/tokenizer.json.

    Raises HexportError for a program that cannot do it, and for one that crashes or hangs.
    """
    return measure(device, program, progress, _run, program, tokenizer, settings)


def _run(progress: Progress, program: Path, tokenizer: Path, settings: dict) -> dict:
    from hexport.devices.answers import answer_prompts, result_facts
    from hexport.devices.emulator import Run, check_htp, load_generator
    from hexport.programs.inspection import inspect_program
    from hexport.tokenizers.tokenizer import load_tokenizer

    check_htp(inspect_program(program), settings["target"])
    loaded, run = load_tokenizer(tokenizer.parent), Run.of(settings)
    generator = load_generator(program, run, progress)
    conversations = conversations_of(settings["prompts"])
    return result_facts(answer_prompts(program, generator, loaded, conversations, run, progress), run)
