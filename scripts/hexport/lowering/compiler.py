"""This module calls the HTP compiler, which turns QNN ops into one context binary."""

import ctypes
import json
from pathlib import Path

import numpy as np
from executorch.backends.qualcomm.partition.utils import generate_qnn_executorch_option
from executorch.backends.qualcomm.utils.constants import QCOM_DTYPE

from hexport.child import Child
from hexport.errors import HexportError
from hexport.executorch_internals import tried_with
from hexport.lowering.compile_spec import compile_spec
from hexport.lowering.compiler_process import compile_ops
from hexport.lowering.compiler_stages import CompilerStages
from hexport.lowering.recording import GraphOps
from hexport.lowering.sent_arrays import send_array
from hexport.programs.context_binary import HEADER_BYTES, HEADER_SIGNATURE_AT, HEADER_SIZE_AT, MAGIC, signature_of
from hexport.progress import Progress
from hexport.targets.target import Target


def compile_graphs(
    graphs: dict[str, GraphOps], target: Target, output: Path, progress: Progress, several_contexts: bool = False
) -> None:
    """Compile all graphs in one call to one context binary, which they share, in the file `output`.

    The ops of the graphs are dropped on the way. Equal ops give equal bytes. Raises HexportError where the compiler
    refuses (it prints its reason to stderr) or crashes, and OSError where the file cannot be written.
    """
    options = generate_qnn_executorch_option(compile_spec(target, several_contexts, several_graphs=len(graphs) > 1))
    advice = "the log has its last words; with little memory, raise num_sharding"
    work = compile_ops, options, list(graphs), str(output)
    stages = CompilerStages(progress, len(graphs))
    with Child(*work, what=f"{target.soc}: the HTP compiler", advice=advice, same_addresses=True) as child:
        _send(child, list(graphs.values()))
        ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back to the system, for the compiler
        answer = json.loads(child.receive(meanwhile=stages.look))
        stages.look()
    progress.add_child(answer["peak_rss_mb"])
    if "error" in answer:
        raise OSError(*answer["error"])
    if not output.stat().st_size:
        raise HexportError(f"{target.soc}: the HTP compiler refused the program; the log has its reason")
    sign(output)


def _send(child: Child, graphs: list[GraphOps]) -> None:
    """Send the ops of all graphs, and each array of data once, also where graphs share it.

    An array comes before the first tensor that refers to it. That tensor has the array's number in the place of its
    data. The torch type of a tensor's codes stays here: the compiler does not ask for it, and its process does not load
    torch.
    """
    sent: dict[tuple, int] = {}  # by place in memory: all arrays exist from the start, so none takes another's place
    for graph in graphs:
        for op, inputs, outputs, new in graph.leave():
            bare = {}
            for number, tensor in new.items():
                reference = None
                if tensor.data is not None:
                    place = tensor.data.__array_interface__["data"][0], tensor.data.dtype, tensor.data.shape
                    if place not in sent:
                        sent[place] = len(sent)
                        child.send("array")
                        send_array(child, tensor.data)
                    reference = sent[place]
                bare[number] = tensor.copy(data=reference)
                bare[number].quantization.pop(QCOM_DTYPE, None)
            child.send((op, inputs, outputs, bare))
        child.send(None)


def sign(file: Path) -> None:
    """Put hexport's signature into a context binary, in place of the one that executorch makes of its clock.

    Raises HexportError where the binary has not the header that executorch writes.
    """
    binary = np.memmap(file, np.uint8, "r+")
    size = HEADER_BYTES + int.from_bytes(binary[HEADER_SIZE_AT].tobytes(), "little")
    if binary[: len(MAGIC)].tobytes() != MAGIC or len(binary) != size:
        raise HexportError(f"a context binary without executorch's header of {HEADER_BYTES} bytes; {tried_with()}")
    binary[HEADER_SIGNATURE_AT] = np.frombuffer(signature_of(binary), np.uint8)
