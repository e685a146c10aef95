"""This module runs a program on one of the phones of a SoC, with the same conversations as on the emulator of this
host.
"""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from hexport.config.devices import Device
from hexport.config.prompts import conversations_of
from hexport.devices.answers import answer_prompts, result_facts
from hexport.devices.emulator import Run, check_htp
from hexport.devices.link.adb import Phone
from hexport.devices.measured import Measured
from hexport.devices.phones.facts import check_soc, read_facts, temperature
from hexport.devices.phones.pool import on_a_phone
from hexport.devices.runners import hexport_runner, qnn_llama_runner
from hexport.programs.inspection_process import facts_of
from hexport.progress import Progress
from hexport.tokenizers.tokenizer import load_tokenizer

RUNNERS = {"qnn_llama_runner": qnn_llama_runner, "hexport": hexport_runner}


def run_on_phones(phones: list[Device], program: Path, tokenizer: Path, settings: dict, progress: Progress) -> Measured:
    """Hold the conversations that the settings of scripts/run_program.py name, on whichever of the phones is free, and
    anew on another one where that fails. tokenizer: …/tokenizer.json.

    Raises HexportError for a program that cannot do it, PhoneFault where each phone has failed.
    """
    check_htp(facts_of(program), settings["target"])
    loaded, run = load_tokenizer(tokenizer.parent), Run.of(settings)
    conversations = conversations_of(settings["prompts"])

    def on_phone(phone: Phone, device: Device, runner: ModuleType) -> dict:
        before = temperature(phone)
        with runner.generator(phone, device, program, tokenizer, run, progress) as generator:
            repeated = answer_prompts(program, generator, loaded, conversations, run, progress)
        facts = result_facts(repeated, run)
        return {**facts, "temperature_c": {"before": before, "after": temperature(phone)}}

    return on_phones(phones, on_phone, progress)


def on_phones(devices: list[Device], work: Callable[[Phone, Device, ModuleType], dict], progress: Progress) -> Measured:
    """Return the facts that work(phone, device, its runner's module) gives on one of these phones.

    Nothing is pushed to a phone that has another SoC than devices.yaml says. Raises as `pool.on_a_phone` does.
    """
    by_name = {device.name: device for device in devices}

    def on_phone(phone: Phone) -> Measured:
        device = by_name[phone.name]
        phone.check_online()
        said = read_facts(phone)
        check_soc(phone, device, said, progress)
        facts = work(phone, device, RUNNERS[device.runner])
        known = {"name": phone.name, "serial": phone.serial, "soc": said.soc, "android": said.android}
        return Measured(phone.name, {"runner": device.runner, **facts}, {"phone": known})

    return on_a_phone([Phone.of(device) for device in devices], on_phone, progress)
