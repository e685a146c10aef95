"""This module writes the .pte: an ExecuTorch program with named methods, made of context binaries.

Its inputs and outputs are in the order of the QNN llama runner.
"""

import hashlib
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import executorch.backends.qualcomm.python.PyQnnManagerAdaptor as qnn
import numpy as np
import torch
from executorch.backends.qualcomm import qnn_preprocess
from executorch.backends.qualcomm.builders.qnn_constants import OpContextLoader
from executorch.backends.qualcomm.serialization.qc_schema_serialize import flatbuffer_to_option, option_to_flatbuffer
from executorch.backends.qualcomm.utils.utils import qnn_edge_config
from executorch.exir import ExecutorchBackendConfig, to_edge
from executorch.exir.backend.compile_spec_schema import CompileSpec
from executorch.exir.backend.partitioner import DelegationSpec, Partitioner, PartitionResult
from executorch.exir.passes.memory_planning_pass import MemoryPlanningPass
from torch import nn

from hexport.errors import HexportError
from hexport.executorch_internals import preprocess_globals_kept, program_pieces, quantised_io_pass
from hexport.lowering.compile_spec import compile_spec
from hexport.lowering.recording import OpTensor
from hexport.programs.context_binary import HEADER_BYTES, HEADER_SIGNATURE_AT, read_context
from hexport.targets.target import Target

DTYPES = {
    qnn.Qnn_DataType_t.QNN_DATATYPE_UFIXED_POINT_16: torch.uint16,
    qnn.Qnn_DataType_t.QNN_DATATYPE_UFIXED_POINT_8: torch.uint8,
    qnn.Qnn_DataType_t.QNN_DATATYPE_INT_32: torch.int32,
}
CHUNK_BYTES = 2**20
_numbers = itertools.count()
_libraries: list[torch.library.Library] = []  # an op lives as long as its library


@dataclass(frozen=True)
class ProgramPart:
    """A program part is one graph of a context binary, with what it is fed and what it puts out.

    inputs: inputs of the method, or outputs of earlier parts, in the order of the binary.
    outputs: what it puts out, in the order of the binary.
    binary: a file as `compiler.compile_graphs` makes it.
    """

    inputs: list[OpTensor]
    outputs: list[OpTensor]
    binary: Path


@dataclass(frozen=True)
class Method:
    """A method has inputs and outputs, and the parts that compute it one after the other."""

    inputs: list[OpTensor]
    outputs: list[OpTensor]
    parts: list[ProgramPart]


def assemble(methods: dict[str, Method], target: Target, constants: dict[str, object], output: Path) -> str:
    """Write context binaries as a program, which has one copy of those that methods share.

    Returns the program's content_sha256, for which the signatures of context binaries count as zeros: whoever signs
    them, it stays the same. The binaries are copied from file to file, and never held. Raises HexportError where QNN
    cannot read a binary, and OSError where a file cannot be read or written.
    """
    several_contexts = any(len(method.parts) > 1 for method in methods.values())
    spec = compile_spec(target, several_contexts, several_graphs=len(methods) > 1)
    if several_contexts:
        spec = _with_spill_fill(spec, {part.binary for method in methods.values() for part in method.parts})
    exported = {name: _export(name, method) for name, method in methods.items()}
    edge = to_edge(exported, constant_methods=constants, compile_config=qnn_edge_config())
    files = {}
    for name, method in methods.items():
        for node, part in zip(_context_nodes(edge.exported_program(name)), method.parts, strict=True):
            with open(part.binary, "rb") as file:  # the header stands in for the content, of which it has a digest
                header = file.read(HEADER_BYTES)
            node.meta[OpContextLoader.meta_ctx_bin] = header
            files[header] = part.binary
    with preprocess_globals_kept():
        edge = edge.to_backend({name: _ContextPartitioner(spec) for name in methods})
    config = executorch_config()
    return _write(program_pieces(edge.to_executorch(config).executorch_program, config, files), output)


def _with_spill_fill(spec: list[CompileSpec], binaries: Iterable[Path]) -> list[CompileSpec]:
    """Return options with the size of the buffer that contexts of one program spill to.

    It is the most that one of them needs. Raises HexportError where a binary does not tell. executorch's
    `update_spill_fill_size` finds the same, but holds each binary twice.
    """
    (qnn_spec,) = spec
    options = flatbuffer_to_option(qnn_spec.value)
    options.backend_options.htp_options.max_sf_buf_size = max(map(_spill_fill_bytes, binaries))
    return [CompileSpec(qnn_spec.key, option_to_flatbuffer(options))]


def _spill_fill_bytes(binary: Path) -> int:
    context = read_context(np.memmap(binary, np.uint8, "r", offset=HEADER_BYTES))
    needs = [graph.spill_fill_bytes for graph in context.graphs.values()] if context else [None]
    if None in needs:
        raise HexportError(
            f"{binary}: damaged, or of a QNN that does not say what the HTP spills; remove it and run snakemake again"
        )
    return max(needs)


def _write(pieces: list[bytes | Path], output: Path) -> str:
    """Write the pieces of a program, of which files are context binaries; return its content_sha256."""
    digest = hashlib.sha256()
    with open(output, "wb") as file:
        for piece in pieces:
            if isinstance(piece, bytes):
                file.write(piece)
                digest.update(piece)
                continue
            with open(piece, "rb") as binary:
                head = binary.read(HEADER_SIGNATURE_AT.stop)
                file.write(head)
                digest.update(head[: HEADER_SIGNATURE_AT.start].ljust(HEADER_SIGNATURE_AT.stop, b"\0"))
                while chunk := binary.read(CHUNK_BYTES):
                    file.write(chunk)
                    digest.update(chunk)
    return digest.hexdigest()


class _ContextPartitioner(Partitioner):
    """This partitioner makes a delegate per context. executorch's own would merge those that feed each other."""

    def __init__(self, spec: list[CompileSpec]):
        super().__init__()
        self.delegation_spec = DelegationSpec(qnn_preprocess.QnnBackend.__name__, spec)

    def partition(self, exported_program: torch.export.ExportedProgram) -> PartitionResult:
        tags = {}
        for i, context in enumerate(_context_nodes(exported_program)):
            tags[f"context_{i}"] = self.delegation_spec
            for node in (context, *context.users):
                node.meta["delegation_tag"] = f"context_{i}"
        return PartitionResult(tagged_exported_program=exported_program, partition_tags=tags)


def _context_nodes(program: torch.export.ExportedProgram) -> list[torch.fx.Node]:
    return [node for node in program.graph.nodes if OpContextLoader.namespace in str(node.target)]


def executorch_config() -> ExecutorchBackendConfig:
    """Return options that exchange quantised values, in buffers that the runner brings."""
    return ExecutorchBackendConfig(
        memory_planning_pass=MemoryPlanningPass(alloc_graph_input=False, alloc_graph_output=False),
        passes=[quantised_io_pass()],
    )


def _export(name: str, method: Method) -> torch.export.ExportedProgram:
    """Export a graph of one op per part, which stands for its context binary."""
    ops = [
        _context_op(f"{name}_{next(_numbers)}", [_empty(tensor, "meta") for tensor in part.outputs])
        for part in method.parts
    ]

    class Contexts(nn.Module):
        def forward(self, *inputs):
            values = dict(zip(method.inputs, inputs, strict=True))
            for op, part in zip(ops, method.parts, strict=True):
                values.update(zip(part.outputs, op([values[tensor] for tensor in part.inputs]), strict=True))
            return [values[tensor] for tensor in method.outputs]

    return torch.export.export(Contexts(), tuple(_empty(tensor, "cpu") for tensor in method.inputs), strict=False)


def _context_op(name: str, outputs: list[torch.Tensor]):
    library = torch.library.Library(OpContextLoader.namespace, "FRAGMENT")
    library.define(f"{name}(Tensor[] inputs) -> Any")
    library.impl(name, lambda inputs: tuple(outputs), dispatch_key="CompositeExplicitAutograd")
    _libraries.append(library)
    return getattr(getattr(torch.ops, OpContextLoader.namespace), name).default


def _empty(tensor: OpTensor, device: str) -> torch.Tensor:
    return torch.zeros(tensor.dims, dtype=DTYPES[tensor.dtype], device=device)
