"""The process in which the HTP compiler runs.

The compiler numbers ops and graphs through the life of a process, and writes these numbers into the context binary. In
a process of its own, equal ops give equal bytes, whatever was compiled or checked before them.
"""

from multiprocessing.connection import Connection

import executorch.backends.qualcomm.python.PyQnnManagerAdaptor as qnn
import numpy as np

from hexport.lowering.recording import Op, Tensor
from hexport.progress import peak_rss_mb
from hexport.qnn_sdk import load_qnn_libraries


def compile_ops(connection: Connection, options: bytes, names: list[str]) -> None:
    """Work of a `child.Child`: take the ops of the graphs with these names, each list closed by None, and answer with
    the context binary, empty where the compiler refuses, and with the peak memory of this process in MB.

    options: executorch's options of the QNN backend, as a flatbuffer.
    """
    load_qnn_libraries()
    graphs = []
    for _ in names:
        wrappers = _Wrappers()
        while (op := connection.recv()) is not None:
            wrappers.add(*op)
        graphs.append([op.GetOpWrapper() for op in wrappers.ops])
    manager = qnn.QnnManager(options)
    binary = memoryview(b"")
    if manager.InitBackend().value == 0 and manager.InitContext(names).value == 0:
        binary = memoryview(manager.Compile(names, graphs)).cast("B")
    connection.send_bytes(binary)
    connection.send_bytes(str(round(peak_rss_mb())).encode())


class _Wrappers:
    """Turns ops into the compiler's own wrappers, each tensor once."""

    def __init__(self):
        self.ops: list = []
        self._tensors: dict[int, object] = {}

    def add(self, op: Op, inputs: list[int], outputs: list[int], new: dict[int, Tensor]) -> None:
        """An op comes with the numbers of its tensors, and with those tensors that are new."""
        self._tensors |= {number: _wrapper(tensor) for number, tensor in new.items()}
        wrapper = qnn.PyQnnOpWrapper(op.name, op.package, op.type)
        wrapper.AddInputTensors([self._tensors[number] for number in inputs])
        wrapper.AddOutputTensors([self._tensors[number] for number in outputs])
        for param in op.tensor_params:
            wrapper.AddTensorParam(*param)
        for param in op.scalar_params:
            wrapper.AddScalarParam(*param)
        self.ops.append(wrapper)


def _wrapper(tensor: Tensor):
    static = tensor.data is not None
    return qnn.TensorWrapper(
        tensor.name,
        tensor.kind,
        tensor.dtype,
        tensor.encoding,
        tensor.quantization,
        len(tensor.dims),
        tensor.dims,
        tensor.dynamic_dims,
        tensor.data if static else np.array([]),
        static,
    )
