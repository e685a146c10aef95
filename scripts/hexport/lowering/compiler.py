"""The HTP compiler: QNN ops in, one context binary out."""

import numpy as np
from executorch.backends.qualcomm.partition.utils import generate_qnn_executorch_option

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

CONTEXT_LIMIT = 4 * 2**30  # bytes; the HTP's address space


def compile_graphs(
    graphs: dict[str, GraphOps], target: Target, progress: Progress, several_contexts: bool = False
) -> bytes:
    """Compile all graphs in one call, so that they share one context binary. Their ops are dropped on the way.

    Equal ops give equal bytes. Raises HexportError when the compiler refuses (it prints its reason to stderr) or
    crashes.
    """
    sizes = [graph.static_bytes for graph in graphs.values()]
    size = max(sizes) if target.shares_weights else sum(sizes)
    if size > CONTEXT_LIMIT:
        raise HexportError(
            f"{' + '.join(graphs)}: {size / 2**30:.1f} GB of weights, but an HTP context addresses "
            f"{CONTEXT_LIMIT // 2**30} GB; raise num_sharding or use a recipe with fewer bits"
        )
    options = generate_qnn_executorch_option(compile_spec(target, several_contexts, several_graphs=len(graphs) > 1))
    advice = "the log has its last words; with little memory, raise num_sharding"
    stages = CompilerStages(progress, len(graphs))
    with Child(compile_ops, options, list(graphs), what=f"{target.soc}: the HTP compiler", advice=advice) as child:
        _send(child, list(graphs.values()))
        binary = child.receive(meanwhile=stages.look)
        stages.look()
        progress.add_peak_rss_mb(float(child.receive()))
    if not binary:
        raise HexportError(f"{target.soc}: the HTP compiler refused the program; the log has its reason")
    return signed(binary)


def _send(child: Child, graphs: list[GraphOps]) -> None:
    """Send the ops of all graphs, and each array of data once, also where graphs share it.

    An array comes before the first tensor that refers to it, which has its number in the place of the data.
    """
    sent: dict[tuple, int] = {}  # by place in memory; all are there from the start, so none takes another's place
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
            child.send((op, inputs, outputs, bare))
        child.send(None)


def signed(binary: bytes) -> bytes:
    """Put hexport's signature in the place of the one that executorch made of its clock."""
    size = HEADER_BYTES + int.from_bytes(binary[HEADER_SIZE_AT], "little")
    if not binary.startswith(MAGIC) or len(binary) != size:
        raise HexportError(f"a context binary without executorch's header of {HEADER_BYTES} bytes; {tried_with()}")
    at = HEADER_SIGNATURE_AT
    return b"".join((binary[: at.start], signature_of(np.frombuffer(binary, np.uint8)), memoryview(binary)[at.stop :]))
