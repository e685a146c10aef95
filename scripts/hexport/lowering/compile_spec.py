"""This module makes the options of the HTP compiler."""

from executorch.backends.qualcomm.serialization.qc_schema import QcomChipset
from executorch.backends.qualcomm.utils.utils import (
    generate_htp_compiler_spec,
    generate_qnn_executorch_compiler_spec,
)
from executorch.exir.backend.compile_spec_schema import CompileSpec

from hexport.targets.target import Target


def compile_spec(target: Target, several_contexts: bool = False, several_graphs: bool = False) -> list[CompileSpec]:
    """Return the options of the HTP compiler, as executorch's compile specs.

    Device programs take their inputs and outputs from shared buffers, which the emulator does not have. Several
    contexts of one program (`several_contexts`) share the buffer that the NPU spills to. Several graphs of one context
    (`several_graphs`) share their weights, where the target can.
    """
    return generate_qnn_executorch_compiler_spec(
        soc_model=QcomChipset[target.soc],
        backend_options=generate_htp_compiler_spec(
            use_fp16=False,
            use_multi_contexts=several_contexts,
            use_weight_sharing=several_graphs and target.shares_weights,
        ),
        shared_buffer=not target.emulator,
        use_mha2sha=True,
    )
