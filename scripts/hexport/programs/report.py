"""This module writes what scripts/inspect_pte.py says of a program: as tables for the terminal, and as one JSON
document.
"""

import re
from collections.abc import Iterable
from dataclasses import asdict

from rich.table import Table

from hexport.programs.capabilities import emulator_refusal, hexport_refusal, modes, phone_socs, shares_weights
from hexport.programs.facts import DelegateData, ProgramFacts, TensorFacts
from hexport.programs.layout import lengths_of
from hexport.programs.runners import RELEASE, RunnerFit, runner_fits
from hexport.tables import printed_table

NOT_RECORDED = "not recorded in the program"
CODES = ("uint8", "uint16")  # these dtypes mean nothing without an encoding
FOLDED = 4  # more rows than this that differ in their layer only become one


def program_json(program: ProgramFacts, faults: list[str]) -> dict:
    """Return all facts of a program as a JSON document, nothing folded. `faults` are those of `conformance.faults`."""
    facts = program.as_json()
    for method in facts["methods"].values():
        for tensor in (*method["inputs"], *method["outputs"]):
            encoding = tensor.pop("encoding")
            tensor |= encoding or {"scale": None, "zero_point": None}
    for data, each in zip(facts["delegate_data"], program.delegate_data, strict=True):
        data["weights_shared"] = _shares(program, each)
    refusal = emulator_refusal(program)
    return {
        **facts,
        "options": asdict(program.options) if program.options else None,
        **lengths_of(program),
        "modes": [] if faults else modes(program),
        "runners": None if faults else _runners(program),
        "phones": phone_socs(program),
        "emulator": {"runs": not (refusal or faults), "reason": refusal or (faults[0] if faults else None)},
        "abi": {"obeyed": not faults, "faults": faults},
    }


def as_tables(program: ProgramFacts, faults: list[str]) -> list[Table]:
    """Return the tables of methods, constant methods and context binaries, and last, where the program runs. Rows of
    layers are folded.
    """
    tables = [_methods(program), _constants(program), _delegates(program), _summary(program, faults)]
    return [table for table in tables if table.row_count]


def _methods(program: ProgramFacts) -> Table:
    table = printed_table(("method", "", "name", "shape", "dtype", "scale", "zero point"))
    for name, method in program.methods.items():
        for kind, tensors in (("in", method.inputs), ("out", method.outputs)):
            for rows in _folded(tensors):
                table.add_row(name, kind, *_cells(rows))
        table.add_section()
    return table


def _folded(tensors: list[TensorFacts]) -> Iterable[list[TensorFacts]]:
    """Yield groups of neighbours of equal shape and dtype whose names differ in a number at the end."""
    groups: list[list[TensorFacts]] = []
    for tensor in tensors:
        if groups and _kind(groups[-1][-1]) == _kind(tensor):
            groups[-1].append(tensor)
        else:
            groups.append([tensor])
    for group in groups:
        yield from [group] if len(group) > FOLDED else ([tensor] for tensor in group)


def _kind(tensor: TensorFacts) -> tuple:
    return re.sub(r"\d+$", "", tensor.name or "?"), tensor.shape, tensor.dtype, tensor.encoding is None


def _cells(tensors: list[TensorFacts]) -> list[str]:
    names = [tensor.name or "?" for tensor in tensors]
    encodings = [tensor.encoding for tensor in tensors if tensor.encoding]
    facts = [_range(names), str(tensors[0].shape), tensors[0].dtype]
    if not encodings:
        return [*facts, NOT_RECORDED if tensors[0].dtype in CODES else ""]
    return [
        *facts,
        _range([f"{scale:.6g}" for scale in sorted(encoding.scale for encoding in encodings)]),
        _range([str(point) for point in sorted(encoding.zero_point for encoding in encodings)]),
    ]


def _range(values: list[str]) -> str:
    """Return the first and the last of values in their order."""
    return " … ".join(dict.fromkeys((values[0], values[-1])))


def _constants(program: ProgramFacts) -> Table:
    table = printed_table(("constant method", "value"))
    for name, value in program.constants.items():
        table.add_row(name, str(value))
    return table


def _delegates(program: ProgramFacts) -> Table:
    table = printed_table(("context binary", "size", "methods", "graphs", "weights", "QNN"))
    for i, data in enumerate(program.delegate_data):
        table.add_row(
            f"{i + 1} of {len(program.delegate_data)}",
            _size(data.n_bytes),
            ", ".join(data.methods),
            NOT_RECORDED if data.graphs is None else ", ".join(data.graphs),
            _weights(program, data),
            data.qnn_build or NOT_RECORDED,
        )
    return table


def _weights(program: ProgramFacts, data: DelegateData) -> str:
    if data.graphs is None:
        return NOT_RECORDED
    if _shares(program, data):
        return "shared"
    return "one copy per graph" if len(data.graphs) > 1 else "of one graph"


def _shares(program: ProgramFacts, data: DelegateData) -> bool:
    return any(program.delegate_data[part.data] is data and shares_weights(program, part) for part in program.parts)


def _summary(program: ProgramFacts, faults: list[str]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    options, refusal, alike = program.options, emulator_refusal(program), phone_socs(program)
    lengths = lengths_of(program)
    table.add_row("file", f"{program.path}, {_size(program.n_bytes)}")
    if options:
        table.add_row("compiled for", f"{options.soc} ({options.htp_arch}), {_option_words(program)}")
    else:
        table.add_row("compiled for", ", ".join(sorted({part.backend for part in program.parts})) or "the CPU")
    if lengths["context_length"]:
        ar = ", ".join(f"{name} {length}" for name, length in lengths["ar_lengths"].items())
        table.add_row("AR lengths", f"{ar}; context length {lengths['context_length']}")
    for name, method in program.methods.items():
        if method.operators:
            table.add_row("on the CPU", f"{name}: {', '.join(method.operators)}")
    table.add_row("modes", "none" if faults else ", ".join(modes(program)))
    for line in ["none"] if faults else _runner_lines(program):
        table.add_row("runners", line)
    if alike:
        others = f", others of {options.htp_arch} ({', '.join(alike[1:])})" if alike[1:] else ""
        table.add_row("phones", f"{alike[0]}{others}")
    reason = refusal or (faults[0] if faults else None)
    table.add_row("emulator", f"no: {reason}" if reason else "yes")
    table.add_row("ABI", f"broken: {len(faults)} fault{'s' if faults[1:] else ''}" if faults else "obeyed")
    return table


def _runners(program: ProgramFacts) -> dict:
    """Return, for each mode, the first version of the C++ runner that fits and what keeps others from it; and whether
    hexport's runtime can drive the program.
    """
    fits = {mode: asdict(fit) for mode, fit in runner_fits(program).items()}
    return {"qnn_llama_runner": fits, "hexport": hexport_refusal(program) is None}


def _runner_lines(program: ProgramFacts) -> Iterable[str]:
    """Return one line for all modes where all versions fit, else one for each mode."""
    fits, own = runner_fits(program), "" if hexport_refusal(program) else "; hexport"
    if all(fit.limit is None for fit in fits.values()):
        return [f"qnn_llama_runner of executorch {RELEASE} and later{own}"]
    return [f"{mode}: {_versions(fit)}{own}{f' ({fit.limit})' if fit.limit else ''}" for mode, fit in fits.items()]


def _versions(fit: RunnerFit) -> str:
    return f"qnn_llama_runner of executorch {fit.since} and later" if fit.since else "no qnn_llama_runner"


def _option_words(program: ProgramFacts) -> str:
    options = program.options
    words = [
        "I/O in shared buffers" if options.shared_buffer else "I/O in copied buffers",
        "weight sharing" if options.weight_sharing else "no weight sharing",
    ]
    words += ["several contexts"] * options.multi_contexts + ["compiled on the device"] * options.online_prepare
    return ", ".join(words)


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes >= 1e5 else f"{n_bytes / 1e3:.1f} kB"
