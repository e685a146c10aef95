"""Evaluation of a program: by the emulator of this host or by one of the phones of a SoC."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from hexport.config.devices import Device
from hexport.devices.adb import Phone
from hexport.devices.emulator import check_vocabulary
from hexport.devices.runs import Measured, on_phones
from hexport.evaluation.device import References, evaluate_reader, load_reader
from hexport.progress import Progress
from hexport.tokenizers.tokenizer import load_tokenizer

MakeReferences = Callable[[int], References] | None


def evaluate_on_emulator(
    devices: list[Device],
    program: Path,
    tokenizer: Path,
    graph: str,
    tasks: dict,
    limit: int | None,
    references: MakeReferences,
    progress: Progress,
) -> Measured:
    """The one device is the emulator. tokenizer: …/tokenizer.json; graph: "prefill" or "kv", the one wanted.

    The QNN libraries of this host must be loaded (`qnn_sdk.use_qnn_sdk`). Raises HexportError.
    """
    with progress.stage("load"):
        reader = load_reader(program, graph)
    loaded = load_tokenizer(tokenizer.parent)
    check_vocabulary(program, reader.graph, loaded)
    return Measured(devices[0].name, evaluate_reader(reader, tasks, limit, loaded, references, progress))


def evaluate_on_phones(
    devices: list[Device],
    program: Path,
    tokenizer: Path,
    graph: str,
    tasks: dict,
    limit: int | None,
    references: MakeReferences,
    progress: Progress,
) -> Measured:
    """Evaluate on whichever of the phones is free, and anew on another one where it fails. Raises HexportError."""
    loaded = load_tokenizer(tokenizer.parent)

    def score(phone: Phone, device: Device, runner: ModuleType) -> dict:
        with runner.reader(phone, device, program, tokenizer, graph, progress) as reader:
            check_vocabulary(program, reader.graph, loaded)
            return evaluate_reader(reader, tasks, limit, loaded, references, progress)

    return on_phones(devices, score, progress)
