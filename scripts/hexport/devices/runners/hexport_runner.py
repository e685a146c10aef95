"""This module has the runner `hexport`: our own runtime on a device that has Python, driven from here over stdin and
stdout.

`phone_side` and what it imports are pushed as one file. One process loads the program once for all that is asked of it.
"""

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hexport.config.devices import Device
from hexport.devices.emulator import Run, mode_methods
from hexport.devices.link.adb import Phone
from hexport.devices.phones.facts import platform, read_facts
from hexport.devices.phones.job import job_folder
from hexport.devices.phones.libraries import qnn_libraries
from hexport.devices.runners.phone_code import write_code
from hexport.devices.runners.phone_process import CODE, PROGRAM, PhoneProcess, count, seconds, understood
from hexport.devices.runners.remote import graph_sizes, mode_sizes
from hexport.errors import HexportError
from hexport.programs.capabilities import hexport_refusal
from hexport.programs.facts import ProgramFacts
from hexport.programs.layout import layout_of
from hexport.progress import Progress
from hexport.runtime.decode import Generation
from hexport.runtime.graph import GraphSizes, dequantised
from hexport.runtime.kv_cache import TokenCache
from hexport.runtime.lookahead import OnToken
from hexport.runtime.prefill import OnBlock
from hexport.runtime.program import METHODS, checked_facts, graph_name, graph_values
from hexport.runtime.reading import Texts, every_row

FRAME_BYTES = 4 << 20  # of logits in one answer, which are held until their hash is known; a call of many rows is split


class RemoteGenerator:
    """A remote generator is what `runtime.decode.Generator` is, in a process on a phone."""

    def __init__(self, process: PhoneProcess, prefill_graph: GraphSizes, decode_graph: GraphSizes):
        self.prefill_graph, self.decode_graph = prefill_graph, decode_graph
        self.cache, self._process, self._conversation = TokenCache(), process, 0

    @property
    def load_s(self) -> float:
        """Return the seconds that the phone took to load the program."""
        return self._process.load_s

    def renew(self) -> None:
        """Let the time that a run may take begin anew, as each answer of a talk does."""
        self._process.renew()

    def begin(self, conversation: int) -> None:
        """Begin a conversation as `Generator.begin` does, from the next answer on."""
        self._conversation = conversation

    def generate(
        self, tokens: list[int], end: int, stop_ids: frozenset[int], on_block: OnBlock, on_token: OnToken
    ) -> Generation:
        """Answer as `Generator.generate` does. Raises PhoneFault where the phone fails, PassingFault where the link
        does.
        """
        request = {"tokens": tokens, "end": end, "stop_ids": sorted(stop_ids)}
        request |= {"n_past": self.cache.n_past, "conversation": self._conversation}
        for event in self._process.ask(request):
            if event.name == "block":
                on_block()
            elif event.name == "token":
                with understood(self._process.phone):
                    token = count(event.facts["token"], self.decode_graph.vocab_size - 1)
                on_token(token)
            else:
                break
        with understood(self._process.phone):
            facts = event.json()
            generation = self._generation(facts, len(tokens))
            self.cache.n_past = count(facts["n_past"], self.decode_graph.context_len)
        return generation

    def _generation(self, facts: dict, n_prompt: int) -> Generation:
        """Return the generation that an answer tells. Raises ValueError, KeyError and TypeError for what is none."""
        context_len, vocab_size = self.decode_graph.context_len, self.decode_graph.vocab_size
        ids = [count(id, vocab_size - 1) for id in facts["token_ids"]]
        first_token_s, total_s = seconds(facts["first_token_s"]), seconds(facts["total_s"])
        if not ids or not 0 < first_token_s <= total_s or (ids[1:] and first_token_s == total_s):
            raise ValueError(f"{len(ids)} tokens, the first after {first_token_s} s of {total_s}")
        tokens_read, decode_steps = count(facts["tokens_read"], n_prompt), count(facts["decode_steps"], context_len)
        return Generation(ids, tokens_read, decode_steps, first_token_s, total_s)


class RemoteReader:
    """A remote reader is a graph on a phone that reads texts. `graph` holds its sizes, `name` is "prefill" or "kv"."""

    def __init__(self, process: PhoneProcess, name: str, graph: GraphSizes, dtype: str, scale: float, zero_point: int):
        self.name, self.graph, self._process = name, graph, process
        self._dtype, self._scale, self._zero_point = dtype, scale, zero_point

    def read(self, inputs: Texts, progress: Progress) -> Iterator[np.ndarray]:
        """Yield what `runtime.reading.read` does, bit for bit: float32 logits (rows, vocab) behind each token of the
        inputs.

        Raises PhoneFault where the phone fails, PassingFault where the link does.
        """
        return every_row(self.graph, inputs, self._blocks(inputs), progress)

    def _blocks(self, inputs: Texts) -> Iterator[np.ndarray]:
        """Yield the float32 logits of each call. The host may have been busy since the program was loaded, so the time
        that a run may take begins here.
        """
        self._process.renew()
        request, parts = {"inputs": [list(tokens) for tokens in inputs], "frame_bytes": FRAME_BYTES}, []
        for event in self._process.ask(request):
            with understood(self._process.phone):
                parts.append(np.frombuffer(event.payload, self._dtype).reshape(-1, self.graph.vocab_size))
                left = count(event.facts["left"], self.graph.ar_len)
                if sum(map(len, parts)) + left > self.graph.ar_len:
                    raise ValueError(f"more rows than the {self.graph.ar_len} of a call")
            if left == 0:
                yield dequantised(np.concatenate(parts), self._scale, self._zero_point)
                parts = []


@contextlib.contextmanager
def generator(
    phone: Phone, device: Device, program: Path, tokenizer: Path, run: Run, progress: Progress
) -> Iterator[RemoteGenerator]:
    """Load the graphs of a mode on a phone and yield their generator. The conversation, and with it the tokenizer,
    stays on this host.

    Raises HexportError where the program lacks the mode's graphs or where no phone can run it; PhoneFault and
    PassingFault where this phone cannot.
    """
    facts, methods = driven_facts(program), mode_methods(run.mode)
    sizes = mode_sizes(facts, run)
    lookahead = dataclasses.asdict(run.lookahead) if run.lookahead else None
    task = {
        "graphs": {method: graph_values(facts, method) for method in methods},
        "run": {"methods": methods, "temperature": run.temperature, "lookahead": lookahead},
    }
    with _process(phone, device, program, task, progress) as process:
        yield RemoteGenerator(process, *sizes)


@contextlib.contextmanager
def reader(
    phone: Phone, device: Device, program: Path, tokenizer: Path, wanted: str, progress: Progress
) -> Iterator[RemoteReader]:
    """Load the graph to score texts by on a phone and yield its reader: "prefill" where that is wanted and there, else
    "kv".

    Raises as `generator` does.
    """
    (name, graph), facts = read_graph(program, wanted), driven_facts(program)
    method = METHODS[name]
    values = graph_values(facts, method)
    with _process(phone, device, program, {"graphs": {method: values}}, progress) as process:
        dtype = layout_of(facts.methods[method]).logits_dtype
        yield RemoteReader(process, name, graph, dtype, values["logits_scale"], values["logits_zero_point"])


def read_graph(program: Path, wanted: str) -> tuple[str, GraphSizes]:
    """Return the name and the sizes of the graph that a reader of the program has. Raises HexportError as `reader`
    does."""
    facts = driven_facts(program)
    name = graph_name(facts.methods, wanted)
    return name, graph_sizes(facts, METHODS[name])


def driven_facts(program: Path) -> ProgramFacts:
    """Return a program's facts. Raises HexportError for a program that hexport's runtime cannot drive on any device."""
    facts = checked_facts(program)
    refusal = hexport_refusal(facts)
    if refusal:
        raise HexportError(f"{program}: {refusal}")
    return facts


@contextlib.contextmanager
def _process(phone: Phone, device: Device, program: Path, task: dict, progress: Progress) -> Iterator[PhoneProcess]:
    """Yield a process in a folder of the phone with all that it needs: our code, the program and the QNN libraries of
    its platform.
    """
    libraries = qnn_libraries(device, platform(read_facts(phone), device.runner))
    with tempfile.TemporaryDirectory(prefix="hexport-") as local:
        code = Path(local, CODE)
        write_code(code)
        files = {CODE: code, PROGRAM: program, **libraries}
        with (
            job_folder(phone, files, device.cache_gb, progress) as folder,
            PhoneProcess(folder, device, task, progress) as process,
        ):
            yield process
