"""Evaluation of a program: by the emulator of this host or by one of the phones of a SoC."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from hexport.config.devices import Device
from hexport.devices.adb import Phone
from hexport.devices.emulator import check_vocabulary
from hexport.devices.runs import Measured, on_phones
from hexport.evaluation.device import Reader, References, evaluate_reader, load_reader
from hexport.progress import Progress
from hexport.tokenizers.tokenizer import load_tokenizer


def evaluate_program(
    devices: list[Device],
    program: Path,
    tokenizer: Path,
    graph: str,
    tasks: dict,
    limit: int | None,
    references: Callable[[int], References] | None,
    progress: Progress,
) -> Measured:
    """Evaluate on the emulator, or on whichever of the phones is free, and anew on another one where it fails.

    tokenizer: …/tokenizer.json; graph: "prefill" or "kv", the one wanted. For the emulator, the QNN libraries of this
    host must be loaded (`qnn_sdk.use_qnn_sdk`). Raises HexportError.
    """
    loaded = load_tokenizer(tokenizer.parent)

    def score(reader: Reader) -> dict:
        check_vocabulary(program, reader.graph, loaded)
        return evaluate_reader(reader, tasks, limit, loaded, references, progress)

    def on_phone(phone: Phone, device: Device, runner: ModuleType) -> dict:
        with runner.reader(phone, device, program, tokenizer, graph, progress) as reader:
            return score(reader)

    if devices[0].kind == "adb":
        return on_phones(devices, on_phone, progress)
    with progress.stage("load"):
        reader = load_reader(program, graph)
    return Measured(devices[0].name, score(reader))
