"""This module tells from a program's facts, without loading it, where the program can run and in which modes."""

from executorch.runtime import Runtime

from hexport.programs.abi import KV_METHOD, PREFILL_METHOD
from hexport.programs.facts import Part, ProgramFacts
from hexport.programs.layout import layouts_of
from hexport.targets.modes import MODES
from hexport.targets.socs import HTP_ARCH
from hexport.targets.target import Target

EMULATOR_BYTES = 4e9  # the most that context binaries may have; the emulator is one process domain


def modes(program: ProgramFacts) -> list[str]:
    """Return the runner's modes that a program has the graphs for; it must obey the ABI."""
    one_token, prefills = layouts_of(program)[KV_METHOD].ar_len == 1, PREFILL_METHOD in program.methods
    return [each.name for each in MODES.values() if each.looks_ahead != one_token and prefills >= each.prefills]


def shares_weights(program: ProgramFacts, part: Part) -> bool:
    """Tell whether the context binary of a part holds several graphs with one copy of their weights."""
    graphs = program.delegate_data[part.data].graphs or []
    return part.options is not None and part.options.weight_sharing and len(graphs) > 1


def hexport_refusal(program: ProgramFacts) -> str | None:
    """Return in one line why hexport's runtime cannot drive a program that the runner can; None if it can."""
    for name, layout in layouts_of(program).items():
        if layout.head_dim is None:
            sizes = ", ".join(str(size) for size in sorted(set(layout.head_dims)))
            return (
                f"the layers of {name} differ in their head_dim ({sizes}), and hexport drives programs of one head_dim "
                "only; run it on a phone, with qnn_llama_runner"
            )
    return None


def emulator_refusal(program: ProgramFacts) -> str | None:
    """Return in one line why this host cannot run a program; None if nothing is known against it."""
    if undriven := hexport_refusal(program):
        return undriven
    parts = program.parts
    if sharing := next((part for part in parts if shares_weights(program, part)), None):
        return (
            "its graphs share weights, which phones can load and the emulator cannot; "
            f"run it on a phone, or export it for {Target(sharing.options.soc, emulator=True).name}"
        )
    other = next((part.options.backend for part in parts if part.options and part.options.backend != "htp"), None)
    if other:
        return f"it is compiled for QNN's {other} backend, and this host has the HTP emulator only; run it on a phone"
    if any(part.options and program.delegate_data[part.data].graphs is None for part in parts):
        return "it holds no context binary that this host's QNN can read: damaged, or of a newer QNN; export it again"
    n_bytes = sum(data.n_bytes for data in program.delegate_data)
    if n_bytes >= EMULATOR_BYTES:
        return (
            f"its context binaries have {n_bytes / 1e9:.1f} GB, and the emulator holds less than 4; run it on a phone"
        )
    runtime = Runtime.get()
    operators = {name for method in program.methods.values() for name in method.operators}
    missing = {part.backend for part in parts} - set(runtime.backend_registry.registered_backend_names)
    missing |= operators - set(runtime.operator_registry.operator_names)
    if missing:
        return f"executorch's runtime for Python lacks {', '.join(sorted(missing))}; run it with a runner that has it"
    return None


def phone_socs(program: ProgramFacts) -> list[str]:
    """Return the SoCs whose HTP has the architecture that the program was compiled for, its own SoC first; none where
    it has no QNN delegate.
    """
    options = program.options
    if options is None:
        return []
    alike = [soc for soc in HTP_ARCH if Target(soc, emulator=False).htp_arch == options.htp_arch and soc != options.soc]
    return [options.soc, *alike]
