"""This module evaluates a program on one of the phones of a SoC. A phone is leased as long as it reads, and not while
this host computes what its logits are compared with."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import ModuleType
from typing import BinaryIO

import numpy as np

from hexport.config.devices import Device
from hexport.decoder.last_states import prune
from hexport.decoder.stream import groups
from hexport.devices.emulator import check_htp, check_vocabulary
from hexport.devices.evaluation_job import EvaluationJob
from hexport.devices.link.adb import Phone
from hexport.devices.link.faults import PhoneFault
from hexport.devices.measured import Measured
from hexport.devices.phone_runs import RUNNERS, on_phones
from hexport.evaluation.device import evaluate_reader
from hexport.programs.inspection_process import facts_of
from hexport.progress import Progress
from hexport.runtime.reading import Texts
from hexport.tokenizers.tokenizer import load_tokenizer

MOST_BYTES = 4 << 30  # of the logits that a phone puts out during one lease
BLOCK_ROWS = 64  # rows of logits that are read back at a time


class LeasedReader:
    """A leased reader reads texts on whichever of some phones is free, and anew on another one where that fails.

    The phones have one runner. `graph` and `name` are those of the runner's readers; `measured` tells of the phone that
    has read last.
    """

    def __init__(self, phones: Sequence[Device], job: EvaluationJob):
        self.phones, self.job, self.wanted = list(phones), job, job.settings["graph"]
        self.name, self.graph = RUNNERS[phones[0].runner].read_graph(job.program, self.wanted)
        self.measured: Measured | None = None

    def read(self, inputs: Texts, progress: Progress) -> Iterator[np.ndarray]:
        """Yield what `runtime.reading.read` does: float32 logits (rows, vocab) behind each token of the inputs.

        They lie in a file meanwhile, MOST_BYTES at a time. Raises HexportError for a program that the runner cannot
        read with, PhoneFault where each phone has failed.
        """
        self.job.states.mkdir(parents=True, exist_ok=True)
        row_bytes = 4 * self.graph.vocab_size
        for together in groups(inputs, MOST_BYTES // row_bytes):
            with tempfile.TemporaryFile(dir=self.job.states) as file:
                self.measured = on_phones(self.phones, self._writes(together, file, progress), progress)
                file.seek(0)
                while block := file.read(BLOCK_ROWS * row_bytes):
                    yield np.frombuffer(block, np.float32).reshape(-1, self.graph.vocab_size)

    def _writes(self, inputs: Texts, file: BinaryIO, progress: Progress):
        def on_phone(phone: Phone, device: Device, runner: ModuleType) -> dict:
            file.seek(0)
            file.truncate()  # what a phone that failed has put out
            job = self.job
            with runner.reader(phone, device, job.program, job.tokenizer, self.wanted, progress) as reader:
                for rows in reader.read(inputs, progress):
                    file.write(np.ascontiguousarray(rows, np.float32).data)
            return {}

        return on_phone


def evaluate_on_phones(phones: list[Device], job: EvaluationJob, progress: Progress) -> Measured:
    """Evaluate on whichever of the phones is free, and anew on another one where that fails.

    Raises HexportError for a program that cannot do it, PhoneFault where each phone has failed.
    """
    check_htp(facts_of(job.program), job.settings["target"])
    runners = dict.fromkeys(phone.runner for phone in phones)
    *others, last = ([phone for phone in phones if phone.runner == runner] for runner in runners)
    for of_runner in others:
        try:
            return _evaluate(of_runner, job, progress)
        except PhoneFault as fault:
            progress.say(f"{fault} (the work goes to phones with another runner)")
    return _evaluate(last, job, progress)


def _evaluate(phones: list[Device], job: EvaluationJob, progress: Progress) -> Measured:
    reader, loaded, tasks = LeasedReader(phones, job), load_tokenizer(job.tokenizer.parent), job.load_tasks(progress)
    check_vocabulary(job.program, reader.graph, loaded)
    references = job.references(reader.graph.context_len, tasks, loaded, progress)
    facts = evaluate_reader(reader, tasks, job.settings["limit"], loaded, references, progress)
    prune(job.states)
    return replace(reader.measured, facts=reader.measured.facts | facts)
