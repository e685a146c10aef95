"""This module checks a .pte, describes its graphs and, on this host, loads them. All facts come from the program
itself.
"""

from collections.abc import Collection
from pathlib import Path

from executorch.runtime import Runtime, Verification

from hexport.errors import HexportError, one_line
from hexport.programs.abi import KV_METHOD, PREFILL_METHOD, SLIDING_WINDOW
from hexport.programs.capabilities import emulator_refusal
from hexport.programs.conformance import LOGITS_SCALE, LOGITS_ZERO_POINT, faults
from hexport.programs.facts import ProgramFacts
from hexport.programs.inspection import inspect_program
from hexport.programs.inspection_process import facts_of
from hexport.programs.layout import layout_of
from hexport.runtime.graph import Graph

# The fields of a `Graph` that are its layout's.
OF_LAYOUT = (
    *("ar_len", "context_len", "vocab_size", "n_layers", "n_kv_heads", "head_dim"),
    *("cache_dtype", "mask_dtype", "token_dtype"),
)
METHODS = {"prefill": PREFILL_METHOD, "kv": KV_METHOD}  # methods, by the names that evaluations have for graphs


class Program:
    """A program is a loaded .pte, ours or another that obeys the ABI of the QNN llama runner. methods: names of its
    graphs.

    Raises HexportError if the file is no program, a broken one, one of another layout, or one for other hardware. It is
    read before it is loaded. Load a program once at a time: when a graph of it goes, executorch ends all other loads of
    the same program too.
    """

    def __init__(self, path: Path):
        self.path = path
        self.facts = _obeying(inspect_program(path))
        refusal = emulator_refusal(self.facts)
        if refusal:
            raise HexportError(f"{path}: does not run on this host: {refusal}")
        self.methods = list(self.facts.methods)
        try:
            self._program = Runtime.get().load_program(path, verification=Verification.InternalConsistency)
        except RuntimeError as error:
            raise HexportError(f"{path}: a broken ExecuTorch program: {one_line(error)}; export it again") from None

    def graph(self, name: str = KV_METHOD) -> Graph:
        """Load a graph on the HTP's emulator. Raises HexportError where the program lacks it or it does not load."""
        values = graph_values(self.facts, name)
        try:
            method = self._program.load_method(name)
        except RuntimeError as error:
            raise HexportError(
                f"{self.path}: {name} does not load on this host: {one_line(error)}; "
                "the log has the reason of QNN; export the program again, or run it on a phone"
            ) from None
        return Graph(method=method, **values)


def checked_facts(path: Path) -> ProgramFacts:
    """Return the facts of a program that obeys the ABI, read in another process. Raises HexportError for any other
    file.
    """
    return _obeying(facts_of(path))


def _obeying(facts: ProgramFacts) -> ProgramFacts:
    found = faults(facts)
    if found:
        more = f" (and {len(found) - 1} more: scripts/inspect_pte.py lists them)" if found[1:] else ""
        raise HexportError(f"{facts.path}: {found[0]}{more}")
    return facts


def graph_values(facts: ProgramFacts, name: str) -> dict[str, int | float | str | None]:
    """Return what a `Graph` is made of, but for the loaded method. Dtypes are names, so that it can be sent as JSON.

    Raises HexportError for a program that lacks the method, or one of the constants that its logits need.
    """
    if name not in facts.methods:
        raise HexportError(
            f"{facts.path}: method {name} is missing; found: {', '.join(sorted(facts.methods))}; "
            "choose a mode that needs no other, or export the program for this mode"
        )
    layout = layout_of(facts.methods[name])
    quantised = layout.logits_dtype != "float32"
    return {key: getattr(layout, key) for key in OF_LAYOUT} | {
        "logits_scale": _constant(facts, LOGITS_SCALE) if quantised else 1.0,
        "logits_zero_point": _constant(facts, LOGITS_ZERO_POINT) if quantised else 0,
        "sliding_window": facts.constants.get(SLIDING_WINDOW),
    }


def graph_name(methods: Collection[str], wanted: str) -> str:
    """Return the name of the graph to score texts by: "prefill" where that is wanted and there, else "kv"."""
    return wanted if METHODS[wanted] in methods else "kv"


def _constant(facts: ProgramFacts, name: str) -> object:
    if name not in facts.constants:
        raise HexportError(f"{facts.path}: constant method {name} is missing; export the program again with hexport")
    return facts.constants[name]
