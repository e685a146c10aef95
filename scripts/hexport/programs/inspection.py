"""This module reads the facts of a .pte from the file, without running it.

The file is memory-mapped, and of its gigabytes only the program's tables are parsed, which executorch's
`deserialize_pte_binary` does not offer.
"""

import struct
from math import prod
from pathlib import Path

import numpy as np
from executorch.backends.qualcomm.serialization.qc_schema_serialize import flatbuffer_to_option
from executorch.exir import schema
from executorch.runtime import Runtime, Verification

from hexport.errors import HexportError
from hexport.executorch_internals import program_of_flatbuffer
from hexport.programs.abi import names_by_count
from hexport.programs.context_binary import (
    DamagedBinary,
    QnnContext,
    QnnGraph,
    QnnTensor,
    TensorEncoding,
    context_binary,
    read_context,
)
from hexport.programs.facts import DelegateData, MethodFacts, Part, ProgramFacts, QnnOptions, TensorFacts

FILE_IDENTIFIER = b"ET"  # at byte 4, before the version of the format
HEADER_MAGIC = b"eh00"  # at byte 8
HEAD_BYTES = 64
QNN_BACKEND = "QnnBackend"
QNN_OPTIONS = "qnn_compile_spec"
# Scalar types of executorch whose numpy names differ from their own.
DTYPES = {
    "BYTE": "uint8",
    "CHAR": "int8",
    "SHORT": "int16",
    "INT": "int32",
    "LONG": "int64",
    "HALF": "float16",
    "FLOAT": "float32",
    "DOUBLE": "float64",
}


def inspect_program(path: Path) -> ProgramFacts:
    """Return the facts of a program. Raises HexportError for a file that is no ExecuTorch program, or a damaged one.

    The bounds of its parts and its tables are checked before anything is read by them.
    """
    if path.is_fifo():
        raise HexportError(f"{path}: a pipe, not a file; save the program first")
    with open(path, "rb") as file:
        if file.read(8)[4:6] != FILE_IDENTIFIER:
            raise HexportError(f"{path}: not an ExecuTorch program")
    content = np.memmap(path, np.uint8, "r")
    program_size, base = _header(content)
    try:
        # executorch checks the tables by flatbuffers' verifier; the parser of Python trusts them.
        Runtime.get().load_program(path, verification=Verification.InternalConsistency)
        program = program_of_flatbuffer(bytes(content[:program_size]))
        return _facts(path, content.size, program, _segments(content, program, base))
    except HexportError:
        raise
    except DamagedBinary as error:
        raise _broken(content, str(error)) from None
    except Exception as error:  # what verification lets through, such as text that is no UTF-8, can raise any error
        raise _broken(content, type(error).__name__) from error


def _header(content: np.ndarray) -> tuple[int, int]:
    """Return how many bytes the tables have, and where the segments behind them begin.

    executorch's extended header (schema/extended_header.h) says it, or its absence does.
    """
    head = bytes(content[:HEAD_BYTES])
    if head[8:12] != HEADER_MAGIC:
        return content.size, 0
    length, program_size, base = struct.unpack_from("<IQQ", head.ljust(HEAD_BYTES, b"\0"), 12)
    if not HEAD_BYTES <= program_size <= content.size or base > content.size or length < 24:
        raise _broken(content, f"its header says {program_size} bytes of tables, and the file has {content.size}")
    return program_size, base


def _broken(content: np.ndarray, why: str) -> HexportError:
    return HexportError(f"{content.filename}: a broken ExecuTorch program ({why}); copy or export it again")


def _segments(content: np.ndarray, program: schema.Program, base: int) -> list[np.ndarray]:
    missing = max((base + part.offset + part.size for part in program.segments), default=0) - content.size
    if missing > 0:
        raise HexportError(
            f"{content.filename}: a broken ExecuTorch program: its last {missing} bytes are missing; copy it again"
        )
    return [content[base + part.offset : base + part.offset + part.size] for part in program.segments]


def _facts(path: Path, n_bytes: int, program: schema.Program, segments: list[np.ndarray]) -> ProgramFacts:
    constants = {plan.name: _constant(plan) for plan in program.execution_plan if _is_constant(plan)}
    plans = [plan for plan in program.execution_plan if plan.name not in constants]
    delegates = {_place(delegate): delegate for plan in plans for delegate in plan.delegates}
    blobs = {place: _delegate_data(program, segments, delegate) for place, delegate in delegates.items()}
    contexts = {place: read_context(blobs[place]) for place, each in delegates.items() if each.id == QNN_BACKEND}
    options: dict[bytes, QnnOptions] = {}
    methods = {plan.name: _method(plan, list(blobs), contexts, options) for plan in plans}
    data = []
    for number, (place, blob) in enumerate(blobs.items()):
        users = [name for name, method in methods.items() if any(part.data == number for part in method.parts)]
        context = contexts.get(place)
        graphs, build = (sorted(context.graphs), context.build_id) if context else (None, None)
        data.append(DelegateData(int(blob.nbytes), users, graphs, build))
    return ProgramFacts(path, int(n_bytes), methods, dict(sorted(constants.items())), data)


def _is_constant(plan: schema.ExecutionPlan) -> bool:
    return not plan.inputs and not any(chain.instructions for chain in plan.chains)


def _place(delegate: schema.BackendDelegate) -> tuple[int, int]:
    """Return where the data of a delegate lies: equal for delegates that share their data."""
    return delegate.processed.location, delegate.processed.index


def _delegate_data(program: schema.Program, segments: list[np.ndarray], delegate: schema.BackendDelegate) -> np.ndarray:
    location, index = _place(delegate)
    if location == schema.DataLocation.SEGMENT:
        return context_binary(segments[index])
    return context_binary(np.frombuffer(program.backend_delegate_data[index].data, np.uint8))


def _method(
    plan: schema.ExecutionPlan,
    places: list[tuple[int, int]],
    contexts: dict[tuple[int, int], QnnContext | None],
    options: dict[bytes, QnnOptions],
) -> MethodFacts:
    parts, operators, encodings = [], set(), {}
    for instruction in (each.instr_args for chain in plan.chains for each in chain.instructions):
        if isinstance(instruction, schema.DelegateCall):
            delegate = plan.delegates[instruction.delegate_index]
            part = Part(delegate.id, places.index(_place(delegate)), _options(delegate, options))
            parts.append(part)
            context = contexts.get(_place(delegate))
            if context and plan.name in context.graphs:
                encodings |= _encodings(plan, instruction.args, context.graphs[plan.name], part.options)
        elif isinstance(instruction, schema.KernelCall):
            operator = plan.operators[instruction.op_index]
            operators.add(f"{operator.name}.{operator.overload}".rstrip("."))
    names = names_by_count(len(plan.inputs), len(plan.outputs))
    input_names, output_names = names or ([None] * len(plan.inputs), [None] * len(plan.outputs))
    return MethodFacts(
        [_tensor(plan, *each, encodings) for each in zip(input_names, plan.inputs, strict=True)],
        [_tensor(plan, *each, encodings) for each in zip(output_names, plan.outputs, strict=True)],
        parts,
        sorted(operators),
    )


def _tensor(
    plan: schema.ExecutionPlan, name: str | None, index: int, encodings: dict[int, TensorEncoding | None]
) -> TensorFacts:
    value = plan.values[index].val
    if not isinstance(value, schema.Tensor):
        return TensorFacts(name, (), type(value).__name__.lower(), False, None)
    planned = value.allocation_info is not None
    return TensorFacts(name, tuple(value.sizes), _dtype(value), planned, encodings.get(index))


def _encodings(
    plan: schema.ExecutionPlan, arguments: list[int], graph: QnnGraph, options: QnnOptions | None
) -> dict[int, TensorEncoding | None]:
    """Return the encodings of a delegate's arguments by the numbers of the values; none where graph and call do not
    fit.

    executorch binds the inputs by the number in their names (input_3_…), and the outputs in the order of the binary.
    Where the binary comes from elsewhere, it binds the inputs in that order too.
    """
    inputs, outputs = (
        [tensor for tensor in tensors if "mutbuf_" not in tensor.name] for tensors in (graph.inputs, graph.outputs)
    )
    if options and not options.from_context_binary and all(_number(tensor) is not None for tensor in inputs):
        inputs = sorted(inputs, key=_number)
    sizes = [prod(plan.values[index].val.sizes) for index in arguments]
    if sizes != [prod(tensor.shape) for tensor in (*inputs, *outputs)]:
        return {}
    return {index: tensor.encoding for index, tensor in zip(arguments, (*inputs, *outputs), strict=True)}


def _number(tensor: QnnTensor) -> int | None:
    prefix, _, rest = tensor.name.partition("_")
    number = rest.partition("_")[0]
    return int(number) if prefix == "input" and number.isdigit() else None


def _dtype(tensor: schema.Tensor) -> str:
    return DTYPES.get(tensor.scalar_type.name, tensor.scalar_type.name.lower())


def _options(delegate: schema.BackendDelegate, known: dict[bytes, QnnOptions]) -> QnnOptions | None:
    """Return the options of a QNN delegate. Reading them starts a process, so equal ones are read once."""
    written = next((spec.value for spec in delegate.compile_specs if spec.key == QNN_OPTIONS), None)
    if delegate.id != QNN_BACKEND or written is None:
        return None
    if written not in known:
        options = flatbuffer_to_option(written)
        htp = options.backend_options.htp_options
        known[written] = QnnOptions(
            backend=str(options.backend_options.backend_type),
            soc=options.soc_info.soc_model.name,
            htp_arch=options.soc_info.htp_info.htp_arch.name,
            shared_buffer=options.shared_buffer,
            weight_sharing=htp is not None and htp.use_weight_sharing,
            multi_contexts=htp is not None and htp.use_multi_contexts,
            online_prepare=options.online_prepare,
            from_context_binary=options.is_from_context_binary,
        )
    return known[written]


def _constant(plan: schema.ExecutionPlan) -> object:
    """Return the value of a constant method, or the list of several outputs."""
    values = [_value(plan, index) for index in plan.outputs]
    return values[0] if len(values) == 1 else values


def _value(plan: schema.ExecutionPlan, index: int) -> object:
    value = plan.values[index].val
    if isinstance(value, schema.Tensor):
        return f"{_dtype(value)} tensor of shape {tuple(value.sizes)}"
    if isinstance(value, schema.IntList):
        return [_value(plan, item) for item in value.items]
    return next(iter(vars(value).values()), None)
