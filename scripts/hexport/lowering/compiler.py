"""The HTP compiler: QNN ops in, one context binary out."""

from executorch.backends.qualcomm.serialization.qc_schema import QnnExecuTorchBackendType
from executorch.backends.qualcomm.utils.qnn_manager_lifecycle import QnnManagerContext, get_current_qnn_manager

from hexport.errors import HexportError
from hexport.lowering.recording import Wrappers
from hexport.lowering.target import Target, compile_spec

CONTEXT_LIMIT = 4 * 2**30  # bytes; the HTP's address space


def compile_graphs(graphs: dict[str, Wrappers], target: Target, several_contexts: bool = False) -> bytes:
    """Compile all graphs in one call, so that they share one context binary.

    Raises HexportError when the compiler refuses: it prints its reason to stderr and returns nothing.
    """
    sizes = [graph.static_bytes for graph in graphs.values()]
    size = max(sizes) if target.shares_weights else sum(sizes)
    if size > CONTEXT_LIMIT:
        raise HexportError(
            f"{' + '.join(graphs)}: {size / 2**30:.1f} GB of weights, but an HTP context addresses "
            f"{CONTEXT_LIMIT // 2**30} GB; raise num_sharding or use a recipe with fewer bits"
        )
    spec = compile_spec(target, several_contexts, several_graphs=len(graphs) > 1)
    names = list(graphs)
    with QnnManagerContext(dict.fromkeys(names, spec)):
        manager = get_current_qnn_manager(QnnExecuTorchBackendType.kHtpBackend, spec)
        manager.InitContext(names)
        binary = bytes(manager.Compile(names, [[op.GetOpWrapper() for op in graph.ops] for graph in graphs.values()]))
        manager.DestroyContext()
    if not binary:
        raise HexportError(f"{target.soc}: the HTP compiler refused the program; the log has its reason")
    return binary
