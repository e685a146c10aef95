"""This module tells from a program's facts which versions of ExecuTorch's C++ runner, qnn_llama_runner, run it rightly.

Release 1.4.1 and main of 2026-08-22 (commit cff6f4dd32) were built unchanged, and run with programs of each shape.
"""

from dataclasses import dataclass
from math import prod

from hexport.programs.abi import KV_METHOD, PREFILL_METHOD, SLIDING_WINDOW
from hexport.programs.capabilities import modes
from hexport.programs.conformance import N_CACHES, N_LAYERS
from hexport.programs.facts import ProgramFacts
from hexport.programs.layout import Layout, layouts_of

RELEASE, MAIN = "1.4.1", "main of 2026-08-22"


@dataclass(frozen=True)
class RunnerFit:
    """A fit tells which versions of the runner run a program rightly.

    since: RELEASE or MAIN, the first version that does; None where none does. limit: what keeps the others from it, and
    what to do, in one line; None where all versions do.
    """

    since: str | None
    limit: str | None


def runner_fits(program: ProgramFacts) -> dict[str, RunnerFit]:
    """Return the fit in each mode of a program that obeys the ABI."""
    return {mode: runner_fit(program, mode) for mode in modes(program)}


def runner_fit(program: ProgramFacts, mode: str) -> RunnerFit:
    """Return the fit in one mode that the program has the graphs for."""
    layouts = layouts_of(program)
    decode = layouts[KV_METHOD]
    prefill = decode if mode == "kv" else layouts[PREFILL_METHOD]
    window = sliding_window(program)
    if window is not None and prefill.ar_len > window:
        return RunnerFit(
            None,
            f"its AR length of {prefill.ar_len} tokens exceeds the sliding window of {window}, to which the runner "
            f"holds cached tokens only, so answers would be others; export it with prefill_ar_len: {window} or less",
        )
    limit = _limit_of_release(program, decode, prefill)
    return RunnerFit(MAIN if limit else RELEASE, limit)


def sliding_window(program: ProgramFacts) -> int | None:
    """Return how many tokens a row of the second mask sees; None where there is no such mask, or no limit."""
    return program.constants.get(SLIDING_WINDOW) if layouts_of(program)[KV_METHOD].n_masks == 2 else None


def _limit_of_release(program: ProgramFacts, decode: Layout, prefill: Layout) -> str | None:
    """Return what RELEASE lacks for a program, in one line; None where it lacks nothing.

    It reads layers from get_n_layers and one head_dim from the first new k. And it takes for caches those inputs of the
    decode graph that have the size of the larger graph's, which must give their dtype.
    """
    if program.constants.get(N_CACHES, program.constants[N_LAYERS]) != program.constants[N_LAYERS]:
        return f"{RELEASE} looks for a cache of each layer, and some share another layer's"
    if decode.head_dim is None:
        return f"{RELEASE} takes the head_dim of the first layer for that of all"
    n_slots = decode.context_len - min(decode.ar_len, prefill.ar_len)
    if prefill.ar_len == prefill.context_len:
        n_slots = prefill.context_len
    size = decode.n_kv_heads * decode.head_dim * n_slots
    inputs = program.methods[KV_METHOD].inputs[2:]
    if {tensor.dtype for tensor in inputs if prod(tensor.shape) == size} == {decode.cache_dtype}:
        return None
    return (
        f"{RELEASE} looks for caches of {n_slots} tokens and aborts, since those of {KV_METHOD} hold "
        f"{decode.cache_len}; build {MAIN}, or export it with a prefill_ar_len from {decode.ar_len} to "
        f"{decode.context_len - 1}"
    )
