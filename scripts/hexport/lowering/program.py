"""The .pte: a context binary as an ExecuTorch program with named methods, in the I/O order of the QNN llama runner."""

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import executorch.backends.qualcomm.python.PyQnnManagerAdaptor as qnn
import torch
from executorch.backends.qualcomm import qnn_preprocess
from executorch.backends.qualcomm._passes.build_quant_io import BuildQuantIo
from executorch.backends.qualcomm.builders.qnn_constants import OpContextLoader
from executorch.backends.qualcomm.partition.qnn_partitioner import QnnPartitioner
from executorch.backends.qualcomm.utils.utils import qnn_edge_config
from executorch.exir import ExecutorchBackendConfig, to_edge
from executorch.exir.passes.memory_planning_pass import MemoryPlanningPass
from torch import nn

from hexport.lowering.recording import Tensor
from hexport.lowering.target import Target, compile_spec

DTYPES = {
    qnn.Qnn_DataType_t.QNN_DATATYPE_UFIXED_POINT_16: torch.uint16,
    qnn.Qnn_DataType_t.QNN_DATATYPE_UFIXED_POINT_8: torch.uint8,
    qnn.Qnn_DataType_t.QNN_DATATYPE_INT_32: torch.int32,
}
_numbers = itertools.count()
_libraries: list[torch.library.Library] = []  # an op lives as long as its library


@dataclass(frozen=True)
class Method:
    """I/O of one graph. `binary_outputs` is the order in which the context binary has the outputs."""

    inputs: list[Tensor]
    outputs: list[Tensor]
    binary_outputs: list[Tensor]


def assemble(binary: bytes, methods: dict[str, Method], target: Target, constants: dict[str, object]) -> bytes:
    """Wrap a context binary into a program. The methods share the one copy of the binary."""
    spec = compile_spec(target)
    exported = {name: _export(name, method) for name, method in methods.items()}
    edge = to_edge(exported, constant_methods=constants, compile_config=qnn_edge_config())
    for name in methods:
        for node in edge.exported_program(name).graph.nodes:
            if OpContextLoader.namespace in str(node.target):
                node.meta[OpContextLoader.meta_ctx_bin] = binary
    with _restored(qnn_preprocess):
        edge = edge.to_backend({name: QnnPartitioner(spec) for name in methods})
    return edge.to_executorch(executorch_config()).buffer


def executorch_config() -> ExecutorchBackendConfig:
    """Quantised I/O, in buffers that the runner brings."""
    return ExecutorchBackendConfig(
        memory_planning_pass=MemoryPlanningPass(alloc_graph_input=False, alloc_graph_output=False),
        passes=[BuildQuantIo()],
    )


def _export(name: str, method: Method) -> torch.export.ExportedProgram:
    """A graph of one op, which stands for the context binary, with its outputs in the order of the method."""
    op = _context_op(f"{name}_{next(_numbers)}", [_empty(tensor, "meta") for tensor in method.binary_outputs])
    order = [method.binary_outputs.index(tensor) for tensor in method.outputs]

    class Context(nn.Module):
        def forward(self, *inputs):
            outputs = op(inputs)
            return [outputs[i] for i in order]

    return torch.export.export(Context(), tuple(_empty(tensor, "cpu") for tensor in method.inputs), strict=True)


def _context_op(name: str, outputs: list[torch.Tensor]):
    library = torch.library.Library(OpContextLoader.namespace, "FRAGMENT")
    library.define(f"{name}(Tensor[] inputs) -> Any")
    library.impl(name, lambda inputs: tuple(outputs), dispatch_key="CompositeExplicitAutograd")
    _libraries.append(library)
    return getattr(getattr(torch.ops, OpContextLoader.namespace), name).default


def _empty(tensor: Tensor, device: str) -> torch.Tensor:
    return torch.zeros(tensor.dims, dtype=DTYPES[tensor.dtype], device=device)


@contextlib.contextmanager
def _restored(module) -> Iterator[None]:
    """Undo changes of a module's globals: executorch's loader of context binaries puts all of torch's into them."""
    before = dict(vars(module))
    try:
        yield
    finally:
        vars(module).clear()
        vars(module).update(before)
