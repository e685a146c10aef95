"""The .pte: context binaries as an ExecuTorch program with named methods, in the I/O order of the QNN llama runner."""

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import executorch.backends.qualcomm.python.PyQnnManagerAdaptor as qnn
import torch
from executorch.backends.qualcomm import qnn_preprocess
from executorch.backends.qualcomm.builders.qnn_constants import OpContextLoader
from executorch.backends.qualcomm.utils.utils import qnn_edge_config, update_spill_fill_size
from executorch.exir import ExecutorchBackendConfig, to_edge
from executorch.exir.backend.compile_spec_schema import CompileSpec
from executorch.exir.backend.partitioner import DelegationSpec, Partitioner, PartitionResult
from executorch.exir.passes.memory_planning_pass import MemoryPlanningPass
from torch import nn

from hexport.executorch_internals import preprocess_globals_kept, quantised_io_pass
from hexport.lowering.compile_spec import compile_spec
from hexport.lowering.recording import Tensor
from hexport.programs.context_binary import HEADER_SIGNATURE_AT
from hexport.targets.target import Target

DTYPES = {
    qnn.Qnn_DataType_t.QNN_DATATYPE_UFIXED_POINT_16: torch.uint16,
    qnn.Qnn_DataType_t.QNN_DATATYPE_UFIXED_POINT_8: torch.uint8,
    qnn.Qnn_DataType_t.QNN_DATATYPE_INT_32: torch.int32,
}
_numbers = itertools.count()
_libraries: list[torch.library.Library] = []  # an op lives as long as its library


@dataclass(frozen=True)
class Part:
    """A graph of one context binary: what it is fed, inputs of the method or outputs of earlier parts, and puts out.

    Both are in the order of the binary.
    """

    inputs: list[Tensor]
    outputs: list[Tensor]
    binary: Path


@dataclass(frozen=True)
class Method:
    """I/O of a method, and the parts that compute it one after the other."""

    inputs: list[Tensor]
    outputs: list[Tensor]
    parts: list[Part]


def assemble(methods: dict[str, Method], target: Target, constants: dict[str, object], output: Path) -> str:
    """Wrap context binaries into a program. Methods with equal binaries share one copy of them."""
    several_contexts = any(len(method.parts) > 1 for method in methods.values())
    spec = compile_spec(target, several_contexts, several_graphs=len(methods) > 1)
    exported = {name: _export(name, method) for name, method in methods.items()}
    edge = to_edge(exported, constant_methods=constants, compile_config=qnn_edge_config())
    for name, method in methods.items():
        for node, part in zip(_context_nodes(edge.exported_program(name)), method.parts, strict=True):
            node.meta[OpContextLoader.meta_ctx_bin] = part.binary.read_bytes()
    with preprocess_globals_kept():
        edge = edge.to_backend({name: _ContextPartitioner(spec) for name in methods})
    update_spill_fill_size([edge.exported_program(name) for name in methods])
    pte = edge.to_executorch(executorch_config()).buffer
    output.write_bytes(pte)
    some = next(iter(methods.values()))
    return content_sha256(pte, [part.binary.read_bytes() for part in some.parts])


def content_sha256(pte: bytes, binaries: list[bytes]) -> str:
    """SHA-256 of a program whose context binaries have a signature of zeros: whoever signs them, it stays the same."""
    digest, content, start = hashlib.sha256(), memoryview(pte), 0
    for header in sorted({at for binary in binaries for at in _places(pte, binary[: HEADER_SIGNATURE_AT.stop])}):
        digest.update(content[start : header + HEADER_SIGNATURE_AT.start])
        digest.update(bytes(HEADER_SIGNATURE_AT.stop - HEADER_SIGNATURE_AT.start))
        start = header + HEADER_SIGNATURE_AT.stop
    digest.update(content[start:])
    return digest.hexdigest()


def _places(content: bytes, part: bytes) -> Iterator[int]:
    at = content.find(part)
    while at >= 0:
        yield at
        at = content.find(part, at + 1)


class _ContextPartitioner(Partitioner):
    """A delegate per context. executorch's own partitioner would merge those that feed each other."""

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
    """Quantised I/O, in buffers that the runner brings."""
    return ExecutorchBackendConfig(
        memory_planning_pass=MemoryPlanningPass(alloc_graph_input=False, alloc_graph_output=False),
        passes=[quantised_io_pass()],
    )


def _export(name: str, method: Method) -> torch.export.ExportedProgram:
    """A graph of one op per part, which stands for its context binary."""
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

    return torch.export.export(Contexts(), tuple(_empty(tensor, "cpu") for tensor in method.inputs), strict=True)


def _context_op(name: str, outputs: list[torch.Tensor]):
    library = torch.library.Library(OpContextLoader.namespace, "FRAGMENT")
    library.define(f"{name}(Tensor[] inputs) -> Any")
    library.impl(name, lambda inputs: tuple(outputs), dispatch_key="CompositeExplicitAutograd")
    _libraries.append(library)
    return getattr(getattr(torch.ops, OpContextLoader.namespace), name).default


def _empty(tensor: Tensor, device: str) -> torch.Tensor:
    return torch.zeros(tensor.dims, dtype=DTYPES[tensor.dtype], device=device)
