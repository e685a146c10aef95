"""tokens.json: the token ids that a model is calibrated on, as the calibration stage writes them."""

from dataclasses import dataclass
from pathlib import Path

from hexport.errors import HexportError
from hexport.json_file import parse_json
from hexport.regular_file import read_bytes

MAX_BYTES = 256 << 20  # some 40 million tokens
REMEDY = "remove it, and snakemake makes it anew"


@dataclass(frozen=True)
class CalibrationTokens:
    """`samples` are lists of token ids, `tokens` is how many they are in all, `source` says what they are from."""

    samples: list[list[int]]
    tokens: int
    source: dict


def read_tokens(path: Path) -> CalibrationTokens:
    """Raises HexportError for another content than tokens.json has. `calibrate` asks for the vocabulary."""
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
