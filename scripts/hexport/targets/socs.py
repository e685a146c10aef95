"""This module lists the SoCs that can be exported for, with the HTP architecture of each."""

from collections.abc import Iterable

SOCS_OF_ARCH = {
    68: ("SM8350", "SA8295", "QCM6490"),
    69: ("SM8450", "SM8475", "SXR2230P"),
    73: ("SM8550", "SA8255", "QCS9100", "SSG2115P", "SSG2125P", "SXR1230P", "SC8380XP"),
    75: ("SM8650",),
    79: ("SM8750", "SXR2330P"),
    81: ("SM8850", "SM8845", "SA8797", "SAR2230P", "SW6100"),
}
HTP_ARCH = {soc: arch for arch, socs in SOCS_OF_ARCH.items() for soc in socs}
ALL = "all"
ARCHS = {f"V{arch}": socs for arch, socs in SOCS_OF_ARCH.items()}
MIN_ARCH_BLOCKS = 69
MIN_ARCH_16_BIT_KV = 73
MIN_ARCH_WEIGHT_SHARING = 73


def socs_named(words: str | Iterable[str]) -> list[str]:
    """Return the SoCs that words name: a SoC by its name, all of an architecture by its own, `V75`, or the word `all`.
    Each is there once, and a word that is not known stays as it is."""
    if words == ALL:
        return list(HTP_ARCH)
    return list(dict.fromkeys(soc for word in words for soc in ARCHS.get(word, (word,))))
