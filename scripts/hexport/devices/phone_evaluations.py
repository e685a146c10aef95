"""This module evaluates a program on one of the phones of a SoC."""

from pathlib import Path
from types import ModuleType

from hexport.config.devices import Device
from hexport.decoder.last_states import prune
from hexport.devices.emulator import check_htp, check_vocabulary
from hexport.devices.evaluation_job import EvaluationJob
from hexport.devices.link.adb import Phone
from hexport.devices.measured import Measured
from hexport.devices.phone_runs import RUNNERS, on_phones
from hexport.evaluation.device import evaluate_reader
from hexport.programs.inspection_process import facts_of
from hexport.progress import Progress
from hexport.tokenizers.tokenizer import load_tokenizer


def evaluate_on_phones(phones: list[Device], job: EvaluationJob, progress: Progress) -> Measured:
    """Evaluate on whichever of the phones is free, and anew on another one where that fails.

    Raises HexportError for a program that cannot do it, PhoneFault where each phone has failed.
    """
    check_htp(facts_of(job.program), job.settings["target"])
    loaded, tasks, graph = load_tokenizer(job.tokenizer.parent), job.load_tasks(progress), job.settings["graph"]
    # No phone is taken as long as this host computes what needs none.
    references = {
        length: job.references(length, tasks, loaded, progress) for length in _context_lens(phones, job.program, graph)
    }

    def on_phone(phone: Phone, device: Device, runner: ModuleType) -> dict:
        with runner.reader(phone, device, job.program, job.tokenizer, graph, progress) as reader:
            check_vocabulary(job.program, reader.graph, loaded)
            of_length = references[reader.graph.context_len]
            return evaluate_reader(reader, tasks, job.settings["limit"], loaded, of_length, progress)

    measured = on_phones(phones, on_phone, progress)
    prune(job.states)
    return measured


def _context_lens(phones: list[Device], program: Path, graph: str) -> set[int]:
    """Return how many tokens of context the runners of some phones read a program with."""
    return {RUNNERS[phone.runner].reader_sizes(program, graph).context_len for phone in phones}
