"""This module holds what was measured on which device."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Measured:
    """A measurement holds the device's name, facts for the result, further facts for its manifest, and versions of what
    only this device needs.
    """

    device: str
    facts: dict
    manifest: dict = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
