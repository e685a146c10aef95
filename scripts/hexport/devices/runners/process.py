"""This module runs one process of ExecuTorch's C++ runner, qnn_llama_runner, on a phone: what it is told, what it says
and what it leaves.

The contract is that of executorch 1.4 and later (examples/qualcomm/oss_scripts/llama). Prompts reach the runner as
files of token ids, so chat templates are the host's. The runner writes ids, since its tokenizer is an `IdTokenizer`.
"""

import codecs
import contextlib
import json
import math
import re
from dataclasses import dataclass

import numpy as np

from hexport.devices.link.adb import Phone
from hexport.devices.link.faults import PassingFault, PhoneFault, said_by_phone
from hexport.devices.phones.facts import read_facts
from hexport.devices.phones.job import JobFolder
from hexport.devices.phones.libraries import RUNNER
from hexport.devices.runners.command import OUTPUTS, PROMPT, runner_command
from hexport.devices.runners.id_tokenizer import IdTokenizer
from hexport.errors import HexportError
from hexport.progress import Progress
from hexport.tokenizers.tokenizer import Tokenizer

PROGRAM = "program.pte"
OBSERVER = re.compile(rb"^PyTorchObserver (\{.*\})\s*$", re.MULTILINE)
TIMES = ("model_load_start_ms", "model_load_end_ms", "inference_start_ms", "first_token_ms", "inference_end_ms")
CUT_IDS = re.compile(rb"(\d+ )*\d*")  # an answer in ids whose end is missing
SPARE_MB = 4
OUTPUT_BYTES = 16 << 20
MOST_TOKENS = 10**7  # the most that a runner may report
TICK_S = 1e-3  # of the runner's clock: no time is told shorter
REMOVE_S = 30.0


@dataclass(frozen=True)
class RunnerReport:
    """A report is what the runner says of one answer. `decoded` counts the tokens behind the first one; times are in
    seconds; `output` is what the runner printed.
    """

    ids: list[int]
    decoded: int
    load_s: float
    first_token_s: float
    decode_s: float
    output: bytes  # what it printed


@dataclass
class RunnerProcess:
    """An instance starts the runner in the folder of a job, anew for each answer and each text; each may take `timeout`
    seconds.

    `version` is the model that the runner is told to run, `tokenizer` decodes what it writes, `models` is the model's
    own tokenizer.
    """

    phone: Phone
    job: JobFolder
    timeout: float
    version: str
    tokenizer: IdTokenizer
    models: Tokenizer
    progress: Progress

    def run(self, tokens: list[int], seq_len: int, mode: str, options: dict[str, str]) -> RunnerReport:
        """Have the runner read tokens, and answer until there are seq_len in all. `options` are more flags by their
        names.

        Raises PhoneFault where the runner does not do what it should, PassingFault where the link broke.
        """
        self.remove(OUTPUTS)
        self.job.write(PROMPT, np.array(tokens, "<u8").tobytes())
        more = {"performance_output_path": "inference_speed.txt", **options}
        try:
            return self._report(self._printed(runner_command(PROGRAM, self.version, mode, seq_len, more)))
        except PassingFault:
            raise
        except PhoneFault as fault:
            raise self._no_space() or fault from None

    def remove(self, name: str) -> None:
        """Remove a file from the job's folder, if it is there."""
        self.job.run(["rm", "-f", name], {}, REMOVE_S)

    def _no_space(self) -> PhoneFault | None:
        """Return the fault behind others where the phone is full, which no exit code tells; None where it is not."""
        with contextlib.suppress(PhoneFault):
            free = read_facts(self.phone).free_mb
            if free is not None and free < SPARE_MB:
                return PhoneFault(f"{self.phone}: no space: {free} MB free after the run; free some of its storage")
        return None

    def _printed(self, command: list[str]) -> bytes:
        """Return what the runner printed, which goes to the log too. Raises PhoneFault where it ended badly."""
        with self.job.start(command, {"LD_LIBRARY_PATH": ".", "ADSP_LIBRARY_PATH": "."}, self.timeout) as stream:
            output = stream.rest()
            printed = output.stdout + b"\n" + output.stderr
            self.progress.log(printed.decode(errors="replace"))
            if output.code:
                stream.output()
                raise PhoneFault(
                    f"{self.phone}: {RUNNER} ended with exit code {output.code}{_said(output.last_line())}; see the log"
                )
        return printed

    def _report(self, printed: bytes) -> RunnerReport:
        try:
            figures = json.loads(OBSERVER.search(printed)[1])
            load_start, load_end, start, first, end = (figures[name] / 1e3 for name in TIMES)
            decoded = int(figures["generated_tokens"])
            if not all(map(math.isfinite, (load_start, load_end, start, first, end))) or not 0 <= decoded < MOST_TOKENS:
                raise ValueError
        except (TypeError, KeyError, ValueError, OverflowError, RecursionError):
            last = said_by_phone(printed.decode(errors="replace").strip().rpartition("\n")[2])
            raise PhoneFault(
                f"{self.phone}: {RUNNER} ended without its report (PyTorchObserver){_said(last)}; see the log"
            ) from None
        ids = self._ids(decoded)
        return RunnerReport(
            ids, decoded, load_end - load_start, max(first - start, TICK_S), max(end - first, TICK_S), printed
        )

    def _ids(self, decoded: int) -> list[int]:
        """Return the ids that the runner wrote behind the echo of its prompt, which is the name of the prompt's file.

        It writes ids, of which it may count the first one or not, or words.
        """
        try:
            text = self.job.read(OUTPUTS, OUTPUT_BYTES)
        except PhoneFault:
            raise
        except HexportError:
            raise PhoneFault(f"{self.phone}: {RUNNER} left no {OUTPUTS}; see the log") from None
        echo = PROMPT.encode()
        answer = text.removeprefix(echo)
        ids = self.tokenizer.ids(answer) if text.startswith(echo) else []
        if ids is None:
            ids = self._encoded(answer)
        elif len(ids) < decoded:
            ids = []
        if not ids:
            raise PhoneFault(
                f"{self.phone}: {RUNNER} wrote garbage to {OUTPUTS}: {text[:40]!r}; see the log, and build it from "
                "executorch 1.4 or later"
            )
        return ids

    def _encoded(self, answer: bytes) -> list[int]:
        """Return the ids of an answer in words, by a runner that decodes with a tokenizer of its own. A last character
        that the end of the answer cut in two is left out. The list is empty where the answer is no text.
        """
        try:
            text = codecs.getincrementaldecoder("utf-8")().decode(answer)
        except UnicodeDecodeError:
            return []
        if CUT_IDS.fullmatch(answer) or not all(letter.isprintable() or letter.isspace() for letter in text):
            return []
        self.progress.say(f"{self.phone}: {RUNNER} wrote text, not ids; token_ids are the tokenizer's of that text")
        return self.models.encode(text)


def _said(line: str) -> str:
    return f", and last said: {line[:200]}" if line else ""
