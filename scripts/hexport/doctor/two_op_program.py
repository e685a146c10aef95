"""This module compiles a program of two ops with the HTP compiler and runs it on the emulator, to see whether QNN works
on this machine."""

import tempfile
import time
from pathlib import Path

from hexport.child import answer
from hexport.errors import HexportError
from hexport.progress import Progress

TIMEOUT_S = 120.0
ADVICE = "the log has its last words; run `make setup` again, or unset QNN_SDK_ROOT"
SOC = "SM8650"


def run_two_ops() -> str:
    """Compile and run the program, in a process of its own; return what was done, in a few words.

    Raises HexportError where that crashes, hangs, or computes something else than torch does.
    """
    start = time.monotonic()
    largest, build_id = answer(
        _work, progress=Progress(), what="QNN: a program of two ops", advice=ADVICE, timeout=TIMEOUT_S
    )
    if largest > 0.01:
        raise HexportError(f"QNN: a program of two ops errs by {largest:.3g}; {ADVICE}")
    return f"{build_id}; a program of two ops compiled for {SOC} and run in {time.monotonic() - start:.0f} s"


def _work(_: Progress) -> tuple[float, str]:
    """Return the largest error of (x + x) * x against torch, and QNN's build id."""
    from hexport.qnn_sdk import qnn_build_id, use_qnn_sdk

    use_qnn_sdk()
    import torch
    from executorch.backends.qualcomm.serialization.qc_schema import QcomChipset
    from executorch.backends.qualcomm.utils.utils import (
        generate_htp_compiler_spec,
        generate_qnn_executorch_compiler_spec,
        to_edge_transform_and_lower_to_qnn,
    )
    from executorch.runtime import Runtime

    class TwoOps(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x + x) * x

    x = torch.linspace(-1, 1, 16).reshape(1, 16)
    options = generate_qnn_executorch_compiler_spec(QcomChipset[SOC], generate_htp_compiler_spec(use_fp16=True))
    program = to_edge_transform_and_lower_to_qnn(TwoOps(), (x,), options).to_executorch().buffer
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "two_ops.pte"
        file.write_bytes(program)
        (output,) = Runtime.get().load_program(file).load_method("forward").execute([x])
    return float((output - TwoOps()(x)).abs().max()), qnn_build_id()
