"""This module evaluates a program on one of the phones of a SoC."""

from types import ModuleType

from hexport.config.devices import Device
from hexport.devices.adb import Phone
from hexport.devices.emulator import check_htp, check_vocabulary
from hexport.devices.evaluation_job import EvaluationJob
from hexport.devices.measured import Measured
from hexport.devices.runs import on_phones
from hexport.evaluation.device import evaluate_reader
from hexport.programs.inspection_process import facts_of
from hexport.progress import Progress
from hexport.tokenizers.tokenizer import load_tokenizer


def evaluate_on_phones(phones: list[Device], job: EvaluationJob, progress: Progress) -> Measured:
    """Evaluate on whichever of the phones is free, and anew on another one where that fails.

    Raises HexportError for a program that cannot do it, PhoneFault where each phone has failed.
    """
    check_htp(facts_of(job.program), job.settings["target"])
    loaded, tasks, references = load_tokenizer(job.tokenizer.parent), job.load_tasks(progress), job.references()
    graph = job.settings["graph"]

    def on_phone(phone: Phone, device: Device, runner: ModuleType) -> dict:
        with runner.reader(phone, device, job.program, job.tokenizer, graph, progress) as reader:
            check_vocabulary(job.program, reader.graph, loaded)
            return evaluate_reader(reader, tasks, job.settings["limit"], loaded, references, progress)

    return on_phones(phones, on_phone, progress)
