"""Targets: a SoC to compile for, or that SoC's emulator on this host."""

from dataclasses import dataclass

from executorch.backends.qualcomm.serialization.qc_schema import QcomChipset
from executorch.backends.qualcomm.utils.utils import (
    generate_htp_compiler_spec,
    generate_qnn_executorch_compiler_spec,
    get_soc_to_htp_arch_map,
)
from executorch.exir.backend.compile_spec_schema import CompileSpec

from hexport.config.socs import HTP_ARCH, MIN_ARCH_WEIGHT_SHARING

EMULATOR_SUFFIX = "-emulator"


@dataclass(frozen=True)
class Target:
    soc: str
    emulator: bool

    @property
    def htp_arch(self) -> str:
        """The HTP version, such as V75."""
        return get_soc_to_htp_arch_map()[self.soc].name

    @property
    def shares_weights(self) -> bool:
        """Whether several graphs of one context can store their weights once."""
        return not self.emulator and HTP_ARCH[self.soc] >= MIN_ARCH_WEIGHT_SHARING


def target_named(name: str) -> Target:
    """SM8650 or SM8650-emulator"""
    return Target(name.removesuffix(EMULATOR_SUFFIX), name.endswith(EMULATOR_SUFFIX))


def compile_spec(target: Target, several_contexts: bool = False, several_graphs: bool = False) -> list[CompileSpec]:
    """Options of the HTP compiler. Device programs take their I/O from shared buffers, which the emulator has not.

    Several contexts of one program share the buffer that the NPU spills to. Several graphs of one context share their
    weights, where the target can.
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
