"""This module records QNN ops as plain Python data: what executorch's op builders would hand to the HTP compiler.

While `recording()` is active, the builders get these classes instead of the compiler's own wrappers. The method names
are therefore those of executorch's `PyQnnManagerAdaptor`.
"""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

import numpy as np

from hexport.executorch_internals import wrappers_replaced


class OpTensor:
    """An op tensor is one QNN tensor. Identity matters: an op's input is the very tensor that another op puts out."""

    def __init__(self, name, kind, dtype, encoding, quantization, rank, dims, dynamic_dims, data, has_data):
        self.name, self.kind, self.dtype, self.encoding = name, kind, dtype, encoding
        self.quantization: dict = dict(quantization)
        self.dims: list[int] = list(dims)
        self.dynamic_dims: list[int] = list(dynamic_dims)
        self.data: np.ndarray | None = data if has_data else None

    def GetName(self) -> str:
        return self.name

    @property
    def value(self) -> str:
        """Return the name of the value that an input or output holds: `k_cache_0` for `input_3_k_cache_0@0`."""
        return re.fullmatch(r"(?:input_\d+|output)_(.*)@\d+", self.name)[1]

    def copy(self, **changes) -> "OpTensor":
        """Return a new tensor with these attributes changed. It shares the data, but not the quantization."""
        clone = object.__new__(OpTensor)
        clone.__dict__ = {**self.__dict__, "quantization": dict(self.quantization), **changes}
        return clone


@dataclass(eq=False)
class Op:
    """An op is one QNN op with its tensors and parameters."""

    name: str
    package: str
    type: str
    inputs: list[OpTensor] = field(default_factory=list)
    outputs: list[OpTensor] = field(default_factory=list)
    tensor_params: list[tuple] = field(default_factory=list)
    scalar_params: list[tuple] = field(default_factory=list)

    def AddInputTensors(self, tensors) -> None:
        self.inputs += tensors

    def AddOutputTensors(self, tensors) -> None:
        self.outputs += tensors

    def AddTensorParam(self, *param) -> None:
        self.tensor_params.append(param)

    def AddScalarParam(self, *param) -> None:
        self.scalar_params.append(param)

    def GetOpWrapper(self) -> "Op":
        return self


class _NameReader:
    """This class stands in for PyQnnTensorWrapper, which the builders only ask for a tensor's name."""

    def __init__(self, tensor: OpTensor):
        self.GetName = tensor.GetName


def recording() -> AbstractContextManager[None]:
    """Make executorch's op builders use these classes, as a context."""
    return wrappers_replaced(OpTensor, Op, _NameReader)


class GraphOps:
    """Graph ops hold the ops of one graph, until the compiler gets them.

    `inputs` and `outputs` are those of the context binary, in its order.
    """

    def __init__(self):
        self.ops: list[Op] = []
        self.outputs: list[OpTensor] = []
        self._inputs: dict[int, OpTensor] = {}
        self._known: set[OpTensor] = set()

    @property
    def inputs(self) -> list[OpTensor]:
        """Return the inputs, ordered by the number in their names, as executorch's runtime binds them."""
        return [self._inputs[number] for number in sorted(self._inputs)]

    def add(self, op: Op) -> None:
        """Add an op, and note which of its tensors are inputs and outputs of the graph."""
        self.ops.append(op)
        for tensor in (*op.inputs, *op.outputs):
            if tensor not in self._known:
                self._known.add(tensor)
                if tensor.name.startswith("output_"):
                    self.outputs.append(tensor)
                elif tensor.name.startswith("input_"):
                    self._inputs[int(tensor.name.split("_")[1])] = tensor

    def leave(self) -> Iterator[tuple[Op, list[int], list[int], dict[int, OpTensor]]]:
        """Yield each op without its tensors, the numbers of its inputs and outputs, and those tensors that are new.

        The ops are dropped on the way, and so are the data of their tensors: each is in memory once.
        """
        numbers: dict[OpTensor, int] = {}
        ops, self.ops = self.ops[::-1], []
        while ops:
            op = ops.pop()
            new = {}
            for tensor in (*op.inputs, *op.outputs):
                if tensor not in numbers:
                    numbers[tensor] = len(numbers)
                    new[numbers[tensor]] = tensor
            inputs, outputs = ([numbers[tensor] for tensor in tensors] for tensors in (op.inputs, op.outputs))
            yield replace(op, inputs=[], outputs=[]), inputs, outputs, new
            for tensor in new.values():
                tensor.data = None
