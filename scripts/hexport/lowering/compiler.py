"""The HTP compiler: QNN ops in, one context binary out."""

import hashlib

from executorch.backends.qualcomm.partition.utils import generate_qnn_executorch_option

from hexport.child import Child
from hexport.errors import HexportError
from hexport.lowering.compiler_process import compile_ops
from hexport.lowering.context_binary import HEADER_MAGIC, HEADER_SIGNATURE_AT
from hexport.lowering.recording import GraphOps
from hexport.lowering.target import Target, compile_spec
from hexport.progress import Progress

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
    with Child(compile_ops, options, list(graphs), what=f"{target.soc}: the HTP compiler", advice=advice) as child:
        for graph in graphs.values():
            for op in graph.leave():
                child.send(op)
            child.send(None)
        binary = child.receive()
        progress.add_peak_rss_mb(float(child.receive()))
    if not binary:
        raise HexportError(f"{target.soc}: the HTP compiler refused the program; the log has its reason")
    return signed(binary)


def signed(binary: bytes) -> bytes:
    """Put a digest of the content in the place of the signature that executorch made of its clock.

    executorch's runtime takes loads of equal signatures for loads of the same context, and checks nothing else
    (QnnExecuTorchBackend::init): so a signature has to be another one for other content, and no more.
    """
    magic = HEADER_MAGIC.to_bytes(4, "little")
    if not binary.startswith(magic):
        raise RuntimeError("a context binary without executorch's header; hexport was tried with executorch 1.5.1")
    at = HEADER_SIGNATURE_AT
    digest = hashlib.sha256(binary[: at.start])
    digest.update(memoryview(binary)[at.stop :])
    return b"".join((binary[: at.start], digest.digest()[: at.stop - at.start], memoryview(binary)[at.stop :]))
