"""This module runs the HTP compiler in a process of its own.

The compiler numbers ops and graphs through the life of a process, and writes these numbers into the context binary. In
a process of its own, equal ops give equal bytes, whatever was compiled or checked before them. Some of its choices
depend on the addresses of its memory, too, so these have to be the same in all such processes.
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
    """Compile the ops that come through `connection` to a context binary, as the work of a `child.Child`.

    options: executorch's options of the QNN backend, as a flatbuffer.
    names: the names of the graphs.
    output: the file of the binary. It stays empty where the compiler refuses.

    The ops of each graph come in the order of `names`, and None closes each list. Before an op come the arrays to which
    no earlier op has referred. The answer is JSON: `peak_rss_mb`, the peak memory of this process in MB, and `error`,
    the number and the text of an OSError, where there was one.
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
    """These wrappers stand for ops in the compiler's own classes, and for each tensor once.

    The data of tensors are in `arrays`, by number.
    """

    def __init__(self, arrays: list[np.ndarray]):
        self._arrays = arrays
        self.ops: list = []
        self._tensors: dict[int, object] = {}

    def add(self, op: Op, inputs: list[int], outputs: list[int], new: dict[int, OpTensor]) -> None:
        """Add an op, which comes with the numbers of its tensors and with those tensors that are new."""
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
