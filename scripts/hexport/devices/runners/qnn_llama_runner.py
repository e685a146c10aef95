"""This module drives ExecuTorch's C++ runner on a phone: one process for each answer and for each text
that is scored.
"""

import contextlib
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hexport.config.devices import Device
from hexport.devices.emulator import Run
from hexport.devices.link.adb import Phone
from hexport.devices.link.faults import PhoneFault
from hexport.devices.phones.facts import platform, read_facts
from hexport.devices.phones.job import job_folder
from hexport.devices.phones.libraries import RUNNER, qnn_libraries, runner_files
from hexport.devices.runners.id_tokenizer import IdTokenizer
from hexport.devices.runners.process import PROGRAM, RunnerProcess, RunnerReport
from hexport.devices.runners.remote import graph_sizes, mode_sizes
from hexport.devices.runners.version import OR_OURS, check_runner_lookahead, check_version
from hexport.errors import HexportError
from hexport.programs.abi import KV_METHOD
from hexport.programs.facts import ProgramFacts
from hexport.programs.layout import layout_of
from hexport.progress import Progress
from hexport.runtime.decode import Generation
from hexport.runtime.graph import GraphSizes, dequantised
from hexport.runtime.kv_cache import TokenCache
from hexport.runtime.lookahead import OnToken, up_to_stop
from hexport.runtime.prefill import OnBlock
from hexport.runtime.program import checked_facts, graph_values
from hexport.runtime.reading import Texts
from hexport.tokenizers.tokenizer import load_tokenizer

LOGITS = "all_logits.raw"
LOOKAHEAD = re.compile(rb"Lookahead Decoding: n_generated = (\d{1,9}) / n_accept = (\d{1,9})")
SPARE_MB = 16  # beside a text's logits
BLOCK_ROWS = 16  # of logits at once: those of a long text take over 1 GB in float32


@dataclass
class RunnerGenerator:
    """A generator is what `runtime.conversation` drives. The runner keeps no cache from one process to the next, so
    each answer reads the whole conversation.
    """

    process: RunnerProcess
    prefill_graph: GraphSizes
    decode_graph: GraphSizes
    run: Run
    cache: TokenCache
    load_s: float = 0.0

    def begin(self, conversation: int) -> None:
        """Do nothing: each answer is a process of its own, and greedy."""

    def generate(
        self, tokens: list[int], end: int, stop_ids: frozenset[int], on_block: OnBlock, on_token: OnToken
    ) -> Generation:
        """Answer as `runtime.decode.Generator` does, but for a context that is full one token earlier.

        All tokens come when the process has ended; times are the runner's. Raises PhoneFault where the phone or the
        runner fails, HexportError for a conversation that is too long to look ahead of, and for a runner that does not
        say what lookahead gained.
        """
        size = self.run.lookahead
        if size and len(tokens) > self.decode_graph.cache_len:
            raise HexportError(
                f"the conversation has {len(tokens)} tokens, and {RUNNER} looks ahead of at most "
                f"{self.decode_graph.cache_len}; shorten it, or raise max_seq_len"
            )
        options = {"ngram": str(size.ngram), "window": str(size.window), "gcap": str(size.gcap)} if size else {}
        report = self.process.run(tokens, min(end, self.decode_graph.context_len), self.run.mode, options)
        self.load_s = report.load_s
        ids = up_to_stop(report.ids[: end - len(tokens)], stop_ids)  # lookahead may find more than there is room for
        steps = self._lookahead_steps(report, len(ids)) if size else len(ids) - 1
        decode_s = report.decode_s * (len(ids) - 1) / max(report.decoded, 1)  # keeps the rate where ids are cut off
        return Generation(ids, len(tokens), steps, report.first_token_s, report.first_token_s + decode_s)

    def _lookahead_steps(self, report: RunnerReport, n: int) -> int:
        """Return the calls of the decode graph that n tokens took. The first token is the prefill's."""
        counts = LOOKAHEAD.search(report.output)
        if counts is None:
            raise HexportError(
                f"{self.process.phone}: {RUNNER} does not say how many tokens lookahead gained; build it with "
                "EXECUTORCH_ENABLE_LOGGING=ON"
            )
        return min(int(counts[1]) - int(counts[2]), n - 1)


@dataclass
class RunnerReader:
    """A reader scores texts by the decode graph, as its `name` says: the runner puts out no other graph's logits.

    `graph` has one token of context less than the program's: the runner reads none at the last position. `logits` holds
    dtype, scale and zero point of the program's logits.
    """

    process: RunnerProcess
    graph: GraphSizes
    logits: dict  # dtype, scale and zero point of the program's
    name: str = "kv"

    def read(self, inputs: Texts, progress: Progress) -> Iterator[np.ndarray]:
        """Yield float32 logits (rows, vocab) behind each token of the inputs, as `runtime.reading.read` does.

        An input that the next one begins with is read together with that one, so sorted inputs are read fastest. Raises
        PhoneFault where the phone or the runner fails, HexportError where the runner leaves no logits.
        """
        groups: list[list[list[int]]] = []
        for tokens in map(list, inputs):
            if not groups or tokens[: len(groups[-1][-1])] != groups[-1][-1]:
                groups.append([])
            groups[-1].append(tokens)
        self._check_space(max(map(len, inputs), default=0))
        for group in progress.steps(groups, "device", len(groups), unit="text"):
            with tempfile.TemporaryDirectory(prefix="hexport-") as folder:
                rows = self._rows(group[-1], Path(folder, LOGITS))
                for tokens in group:
                    for start in range(0, len(tokens), BLOCK_ROWS):
                        block = rows[start : min(start + BLOCK_ROWS, len(tokens))]
                        yield dequantised(block, self.logits["scale"], self.logits["zero_point"])

    def _rows(self, tokens: list[int], file: Path) -> np.ndarray:
        """Return the codes (n, vocab) behind each token, in a file of this host."""
        if len(tokens) > self.graph.context_len:
            raise ValueError(f"{len(tokens)} tokens do not fit into a context of {self.graph.context_len}")
        self.process.run(tokens, len(tokens) + 1, "kv", {"dump_logits_path": LOGITS})
        expected = len(tokens) * self._row_bytes()
        try:
            self.process.job.fetch(LOGITS, file, expected)
        except PhoneFault:
            raise
        except HexportError:
            raise PhoneFault(f"{self.process.phone}: {RUNNER} left no {LOGITS}; see the log") from None
        self.process.remove(LOGITS)
        if file.stat().st_size != expected:
            raise PhoneFault(
                f"{self.process.phone}: {RUNNER} wrote {file.stat().st_size} bytes of logits, expected {expected}; "
                "see the log"
            )
        return np.memmap(file, self.logits["dtype"], "r", shape=(len(tokens), self.graph.vocab_size))

    def _row_bytes(self) -> int:
        return self.graph.vocab_size * np.dtype(self.logits["dtype"]).itemsize

    def _check_space(self, n_tokens: int) -> None:
        needed, free = n_tokens * self._row_bytes() / 1e6 + SPARE_MB, read_facts(self.process.phone).free_mb
        if free is not None and free < needed:
            raise PhoneFault(
                f"{self.process.phone}: no space: {needed:.0f} MB needed for the logits of {n_tokens} tokens, "
                f"{free} MB free; free some of its storage"
            )


@contextlib.contextmanager
def generator(
    phone: Phone, device: Device, program: Path, tokenizer: Path, run: Run, progress: Progress
) -> Iterator[RunnerGenerator]:
    """Yield a generator that has the runner answer conversations on a phone. tokenizer: …/tokenizer.json.

    Raises HexportError for what the runner cannot do right, for a program that lacks the mode's graphs, and where files
    for the phone are missing; PhoneFault where the phone cannot take them.
    """
    if run.temperature > 0:
        raise HexportError(
            f"temperature {run.temperature:g}: {RUNNER} draws tokens from codes, not logits, so it would mean another "
            f"one; set temperature: 0, {OR_OURS}"
        )
    facts = checked_facts(program)
    prefill_graph, decode_graph = mode_sizes(facts, run)
    check_version(phone, device, facts, run.mode, progress)
    if run.lookahead:
        check_runner_lookahead(facts, run.lookahead, decode_graph)
    with _process(phone, device, facts, tokenizer, progress) as process:
        yield RunnerGenerator(process, prefill_graph, decode_graph, run, TokenCache())


@contextlib.contextmanager
def reader(
    phone: Phone, device: Device, program: Path, tokenizer: Path, graph_name: str, progress: Progress
) -> Iterator[RunnerReader]:
    """Yield a reader that has the runner score texts on a phone. Where graph_name is "prefill", a line of progress says
    that the decode graph is used instead.

    Raises as `generator` does, and HexportError for a lookahead program.
    """
    (name, graph), facts = read_graph(program, graph_name), checked_facts(program)
    values = graph_values(facts, KV_METHOD)
    check_version(phone, device, facts, name, progress)
    if graph_name != name:
        progress.say(f"{phone}: {RUNNER} puts out the logits of {KV_METHOD} only; texts are scored by that")
    dtype = layout_of(facts.methods[KV_METHOD]).logits_dtype
    logits = {"dtype": dtype, "scale": values["logits_scale"], "zero_point": values["logits_zero_point"]}
    with _process(phone, device, facts, tokenizer, progress) as process:
        yield RunnerReader(process, graph, logits)


def read_graph(program: Path, _graph_name: str) -> tuple[str, GraphSizes]:
    """Return the name and the sizes of the graph that a reader of the program has, the decode graph. Raises
    HexportError for a lookahead program.
    """
    values = graph_values(checked_facts(program), KV_METHOD)
    if values["ar_len"] != 1:
        raise HexportError(
            f"{program}: {RUNNER} puts out logits of decode graphs with AR length 1, here it is {values['ar_len']}; "
            "evaluate this model in mode kv or hybrid, whose logits are the same"
        )
    return RunnerReader.name, GraphSizes(1, values["context_len"] - 1, values["vocab_size"])


def decoder_version(facts: ProgramFacts) -> str:
    """Return the model that the runner is told to run: "gemma3" for a program with two masks, else "gemma".

    The runner asks for a sliding window's mask where the model is a Gemma 3. To the stop tokens of both models it adds
    <end_of_turn>, of which an `IdTokenizer` makes any id. It has no say in chat templates, since prompts reach it as
    ids.
    """
    return "gemma3" if layout_of(facts.methods[KV_METHOD]).n_masks == 2 else "gemma"


@contextlib.contextmanager
def _process(
    phone: Phone, device: Device, facts: ProgramFacts, tokenizer: Path, progress: Progress
) -> Iterator[RunnerProcess]:
    """Yield the runner with all that it needs, in a folder of the phone."""
    loaded, graph = load_tokenizer(tokenizer.parent), graph_sizes(facts, KV_METHOD)
    files = runner_files(device) | qnn_libraries(device, platform(read_facts(phone), RUNNER))
    ids = IdTokenizer.of(loaded, graph.vocab_size)
    with tempfile.TemporaryDirectory(prefix="hexport-") as folder:
        files |= {PROGRAM: facts.path} | {file.name: file for file in ids.write(Path(folder))}
        with job_folder(phone, files, device.cache_gb, progress) as job:
            yield RunnerProcess(phone, job, device.timeout, decoder_version(facts), ids, loaded, progress)
