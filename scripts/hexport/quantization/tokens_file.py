"""tokens.json holds the token ids that a model is calibrated on, as the calibration stage writes them."""

from dataclasses import dataclass
from pathlib import Path

from hexport.errors import HexportError
from hexport.json_file import parse_json
from hexport.regular_file import read_bytes

MAX_BYTES = 256 << 20  # this is enough for some 40 million tokens
REMEDY = "remove it, and snakemake makes it anew"


@dataclass(frozen=True)
class CalibrationTokens:
    """Calibration tokens are the content of a tokens.json.

    samples: lists of token ids.
    tokens: how many ids they have in all.
    source: what they were made from, as keys with values.
    """

    samples: list[list[int]]
    tokens: int
    source: dict

    @property
    def facts(self) -> dict:
        """Return what quant attrs tell of the data that they were calibrated on."""
        return {**self.source, "samples": len(self.samples), "tokens": self.tokens}


def read_tokens(path: Path) -> CalibrationTokens:
    """Read a tokens.json; raise HexportError for another content than it has.

    Whether the ids lie in the vocabulary is checked by `calibrate`.
    """
    content = parse_json(read_bytes(path, MAX_BYTES), str(path))
    if not isinstance(content, dict) or content.keys() != {"samples", "tokens", "source"}:
        raise HexportError(f"{path}: expected the keys samples, source and tokens; {REMEDY}")
    samples, source = content["samples"], content["source"]
    if not isinstance(source, dict) or not isinstance(samples, list) or not samples:
        raise HexportError(f"{path}: expected a list of samples and their source; {REMEDY}")
    for number, sample in enumerate(samples, 1):
        if not isinstance(sample, list) or not sample or not all(type(token) is int for token in sample):
            raise HexportError(f"{path}: sample {number} is no list of token ids; {REMEDY}")
        if min(sample) < 0:
            raise HexportError(
                f"{path}: sample {number} has the token {min(sample)}, and no token is negative; {REMEDY}"
            )
    if content["tokens"] != sum(map(len, samples)):
        raise HexportError(f"{path}: tokens is {content['tokens']!r}, but the samples have another number; {REMEDY}")
    return CalibrationTokens(samples, content["tokens"], source)
