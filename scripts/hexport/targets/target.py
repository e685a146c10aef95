"""This module defines targets: a SoC to compile for, or that SoC's emulator on this host."""

from dataclasses import dataclass

from hexport.targets.socs import HTP_ARCH, MIN_ARCH_WEIGHT_SHARING, SOCS_OF_ARCH

EMULATOR_SUFFIX = "-emulator"


@dataclass(frozen=True)
class Target:
    """A target is a SoC to compile for, or where `emulator` is true, that SoC's emulator on this host."""

    soc: str
    emulator: bool

    @property
    def name(self) -> str:
        """Return the target's name in paths, such as SM8650 or SM8650-emulator."""
        return f"{self.soc}{EMULATOR_SUFFIX if self.emulator else ''}"

    @property
    def htp_arch(self) -> str:
        """Return the HTP version, such as V75."""
        return f"V{HTP_ARCH[self.soc]}"

    @property
    def shares_weights(self) -> bool:
        """Return whether several graphs of one context can store their weights once."""
        return not self.emulator and HTP_ARCH[self.soc] >= MIN_ARCH_WEIGHT_SHARING

    def copies(self, n_graphs: int) -> int:
        """Return how often a context of so many graphs stores its weights."""
        return 1 if self.shares_weights else n_graphs


def target_named(name: str) -> Target:
    """Return the target of a name such as SM8650 or SM8650-emulator."""
    return Target(name.removesuffix(EMULATOR_SUFFIX), name.endswith(EMULATOR_SUFFIX))


def target_of_arch(arch: str) -> Target:
    """Return the target of the first SoC of an HTP version, such as V75."""
    return Target(SOCS_OF_ARCH[int(arch.removeprefix("V"))][0], emulator=False)
