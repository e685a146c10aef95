"""This module runs a program on the x86-64 HTP emulator of this host, through executorch's own runtime."""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hexport.errors import HexportError
from hexport.programs.abi import KV_METHOD, PREFILL_METHOD
from hexport.programs.facts import ProgramFacts
from hexport.progress import Progress
from hexport.runtime.decode import Generator
from hexport.runtime.graph import GraphSizes
from hexport.runtime.lookahead import Size, check_lookahead
from hexport.runtime.program import Program
from hexport.runtime.sampling import Sampler
from hexport.targets.modes import LOOKAHEAD_KEYS, MODES
from hexport.targets.target import target_named
from hexport.tokenizers.tokenizer import Tokenizer

G = TypeVar("G", bound=GraphSizes)


@dataclass(frozen=True)
class Run:
    """A run says how a program is run. `lookahead` is the size of a step in mode lookahead, and None in the other
    modes.

    The conversations are measured `repeats` times, after they were held `warmup` times. `seq_len` is in tokens.
    """

    mode: str
    lookahead: Size | None
    system_prompt: str
    temperature: float
    seq_len: int
    repeats: int = 1
    warmup: int = 0

    @classmethod
    def of(cls, settings: dict) -> "Run":
        """Return the run that the settings of scripts/run_program.py describe.

        For instance, `{"mode": "hybrid", "system_prompt": "", "temperature": 0, "seq_len": 1024, "repeats": 1,
        "warmup": 0}`; mode lookahead needs `ngram`, `window` and `gcap` too.
        """
        mode = settings["mode"]
        size = Size(*(settings[key] for key in LOOKAHEAD_KEYS)) if MODES[mode].looks_ahead else None
        keys = ("system_prompt", "temperature", "seq_len", "repeats", "warmup")
        return cls(mode, size, **{key: settings[key] for key in keys})


def check_vocabulary(path: Path, graph: GraphSizes, tokenizer: Tokenizer) -> None:
    """Raise HexportError where the tokenizer has tokens that the program does not know; `path` is for the message."""
    if tokenizer.vocab_size > graph.vocab_size:
        raise HexportError(
            f"{path}: the program knows {graph.vocab_size} tokens, the tokenizer {tokenizer.vocab_size}; "
            "they belong to different models"
        )


def check_htp(facts: ProgramFacts, target: str) -> None:
    """Raise HexportError where a ready program was compiled for another HTP than the target's.

    Its result would be recorded under a wrong name, and no device of that name could load it.
    """
    options, wanted = facts.options, target_named(target)
    if options is not None and options.htp_arch != wanted.htp_arch:
        raise HexportError(
            f"{facts.path}: compiled for {options.soc} ({options.htp_arch}), and the device is {wanted.soc} "
            f"({wanted.htp_arch}); name a device of its SoC, or export it for this one"
        )


def load_generator(path: Path, run: Run, progress: Progress) -> Generator:
    """Load the graphs of a mode on this host. Raises HexportError for a program that lacks them or does not load."""
    start = time.perf_counter()
    with progress.stage("load"):
        program = Program(path)
        graphs = mode_graphs(path, program.methods, program.graph, run)
    return Generator(*graphs, Sampler(run.temperature), run.lookahead, time.perf_counter() - start)


def mode_methods(mode: str) -> tuple[str, str]:
    """Return the method names of the prefill and of the decode graph of a mode. In mode kv, both are the same."""
    return PREFILL_METHOD if MODES[mode].prefills else KV_METHOD, KV_METHOD


def mode_graphs(path: Path, methods: Collection[str], graph: Callable[[str], G], run: Run) -> tuple[G, G]:
    """Return the prefill and the decode graph of a mode, each as `graph` gives it by its method name.

    Raises HexportError where the program lacks one of them, or where the decode graph's AR length does not fit the
    mode.
    """
    prefill, decode = mode_methods(run.mode)
    if prefill != decode and prefill not in methods:
        raise HexportError(
            f"{path}: mode {run.mode} needs {prefill}, which this program lacks; "
            "run it in mode kv, or export it for this mode"
        )
    decode_graph = graph(decode)
    if run.lookahead:
        check_lookahead(decode_graph, run.lookahead, run.temperature, str(path))
    elif decode_graph.ar_len != 1:
        raise HexportError(
            f"{path}: mode {run.mode} needs {decode} with AR length 1, here it has {decode_graph.ar_len}; "
            "run this program in mode lookahead, or export it for this mode"
        )
    return decode_graph if prefill == decode else graph(prefill), decode_graph
