"""The process in which the HTP compiler runs.

The compiler numbers ops and graphs through the life of a process, and writes these numbers into the context binary. In
a process of its own, equal ops give equal bytes, whatever was compiled or checked before them.
"""

import json
from multiprocessing.connection import Connection
from pathlib import Path

import executorch.backends.qualcomm.python.PyQnnManagerAdaptor as qnn
import numpy as np

from hexport.lowering.recording import Op, OpTensor
from hexport.lowering.sent_arrays import receive_array
from hexport.progress import peak_rss_mb
from hexport.qnn_sdk import load_qnn_libraries


def compile_ops(connection: Connection, options: bytes, names: list[str], output: str) -> None:
    """Work of a `child.Child`: compile the ops that come, to a context binary.

    First come the ops of the graphs with these names, each list closed by None, and before each op the arrays that no
    other one has referred to yet. The binary is written to the file `output`, which stays empty where the compiler
    refuses. The answer is JSON: the peak memory of this process in MB, and of an OSError what it is made of.

    options: executorch's options of the QNN backend, as a flatbuffer.
    """
    load_qnn_libraries()
    graphs, arrays = [], []
    for _ in names:
        wrappers = _Wrappers(arrays)
        while (message := connection.recv()) is not None:
            if message == "array":
                arrays.append(receive_array(connection))
            else:
                wrappers.add(*message)
        graphs.append([op.GetOpWrapper() for op in wrappers.ops])
    manager = qnn.QnnManager(options)
    answer = {}
    if manager.InitBackend().value == 0 and manager.InitContext(names).value == 0:
        try:
            Path(output).write_bytes(memoryview(manager.Compile(names, graphs)).cast("B"))
        except OSError as error:
            answer["error"] = error.errno, error.strerror
    connection.send_bytes(json.dumps({**answer, "peak_rss_mb": round(peak_rss_mb())}).encode())


class _Wrappers:
    """Turns ops into the compiler's own wrappers, each tensor once. Their data are in `arrays`, by number."""

    def __init__(self, arrays: list[np.ndarray]):
        self._arrays = arrays
        self.ops: list = []
        self._tensors: dict[int, object] = {}

    def add(self, op: Op, inputs: list[int], outputs: list[int], new: dict[int, OpTensor]) -> None:
        """An op comes with the numbers of its tensors, and with those tensors that are new."""
        self._tensors |= {number: self._wrapper(tensor) for number, tensor in new.items()}
        wrapper = qnn.PyQnnOpWrapper(op.name, op.package, op.type)
        wrapper.AddInputTensors([self._tensors[number] for number in inputs])
        wrapper.AddOutputTensors([self._tensors[number] for number in outputs])
        for param in op.tensor_params:
            wrapper.AddTensorParam(*param)
        for param in op.scalar_params:
            wrapper.AddScalarParam(*param)
        self.ops.append(wrapper)

    def _wrapper(self, tensor: OpTensor):
        return qnn.TensorWrapper(
            tensor.name,
            tensor.kind,
            tensor.dtype,
            tensor.encoding,
            tensor.quantization,
            len(tensor.dims),
            tensor.dims,
            tensor.dynamic_dims,
            np.array([]) if tensor.data is None else self._arrays[tensor.data],
            False,  # no copy of the data
        )
