"""What was measured on which device."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Measured:
    """Facts for the result; further ones for its manifest, and versions of what only this device needs."""

    device: str
    facts: dict
    manifest: dict = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
