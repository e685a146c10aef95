"""A run: the same conversation on the emulator of this host or on one of the phones of a SoC."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from hexport.config.devices import Device
from hexport.devices import hexport_runner, qnn_llama_runner
from hexport.devices.adb import Phone
from hexport.devices.answers import answer_prompts, result_facts
from hexport.devices.emulator import Run, load_generator
from hexport.devices.phone_facts import check_soc, read_facts, temperature
from hexport.devices.pool import on_a_phone
from hexport.progress import Progress
from hexport.runtime.conversation import AnyGenerator
from hexport.tokenizers.tokenizer import load_tokenizer

RUNNERS = {"qnn_llama_runner": qnn_llama_runner, "hexport": hexport_runner}
T = TypeVar("T")


@dataclass(frozen=True)
class Measured:
    """What was measured on which device: facts for the result, and more for its manifest."""

    device: str
    facts: dict
    manifest: dict = field(default_factory=dict)


def run_program(
    devices: list[Device], program: Path, tokenizer: Path, prompts: list[str], run: Run, progress: Progress
) -> Measured:
    """Run on the emulator, or on whichever of the phones is free, and anew on another one where it fails.

    tokenizer: …/tokenizer.json. For the emulator, the QNN libraries of this host must be loaded
    (`qnn_sdk.use_qnn_sdk`). Raises HexportError.
    """
    loaded = load_tokenizer(tokenizer.parent)

    def answer(generator: AnyGenerator) -> dict:
        return result_facts(answer_prompts(program, generator, loaded, prompts, run, progress), run)

    def on_phone(phone: Phone, device: Device, runner: ModuleType) -> dict:
        before = temperature(phone)
        with runner.generator(phone, device, program, tokenizer, run, progress) as generator:
            facts = answer(generator)
        return {**facts, "temperature_c": {"before": before, "after": temperature(phone)}}

    if devices[0].kind == "adb":
        return on_phones(devices, on_phone, progress)
    return Measured(devices[0].name, answer(load_generator(program, run, progress)))


def on_phones(devices: list[Device], work: Callable[[Phone, Device, ModuleType], dict], progress: Progress) -> Measured:
    """The facts that work(phone, device, its runner's module) gives on one of these phones.

    Nothing is pushed to a phone that has another SoC than devices.yaml says.
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
