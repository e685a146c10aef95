"""Quant attrs are the calibrated scale and zero point of every activation, as JSON.

They are keyed by layer and point, so they hold for every mode, AR length, context length and SoC. An entry of
`activations` in quant_attrs.json is

    "layers.3.feed_forward.mul": {"bits": 16, "qmax": 65535, "qmin": 0, "scale": 0.0001760745, "zero_point": 28031}
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

from hexport.errors import HexportError
from hexport.provenance import write_json
from hexport.quantization.coded_weight import CodedWeight

SCHEMA = 3
KEYS = {"scale", "zero_point", "schema", "model", "recipe", "checkpoint_sha256", "calibration", "mask", "kv", "logits"}
KEYS |= {"activations"}
ENCODING_KEYS = {"scale", "zero_point", "qmin", "qmax", "bits"}
# These are the lowest and the highest code that observers have, of 8 and 16 bits, unsigned and signed.
CODES = {(0, 255), (-128, 127), (-127, 127), (0, 65535), (-32768, 32767), (-32767, 32767)}
LARGEST_SCALE = 3e38  # programs hold scales in float32
KINDS = {dict: "an object", list: "a list", str: "a text"}
T = TypeVar("T")


@dataclass(frozen=True)
class Encoding:
    """An encoding says what codes stand for: real = (code - zero_point) * scale, for codes in [qmin, qmax]."""

    scale: float
    zero_point: int
    qmin: int
    qmax: int

    @property
    def bits(self) -> int:
        """Return the bits of a code, 8 or 16 for codes that observers have."""
        return (self.qmax - self.qmin).bit_length()

    def as_json(self) -> dict:
        """Return the entry of the encoding in quant_attrs.json."""
        return {**asdict(self), "bits": self.bits}


@dataclass(frozen=True)
class QuantAttrs:
    """Quant attrs hold the encodings of a decoder, and its coded weights.

    activations: encodings by point, in graph order.
    kv: the encodings of k and v of each layer, by these two names.
    mask, logits: the encodings of the runtime's input and output.
    weights: by projection (`layers.3.attention.q_proj`), what weights.safetensors says of those that it holds.

    Raises HexportError where a scale is no positive number that float32 can hold.
    """

    activations: dict[str, Encoding]
    kv: list[dict[str, Encoding]]
    mask: Encoding
    logits: Encoding
    weights: Mapping[str, CodedWeight] = field(default_factory=dict)

    def __post_init__(self):
        kv = {f"kv[{i}].{name}": encoding for i, layer in enumerate(self.kv) for name, encoding in layer.items()}
        for point, encoding in {**self.activations, **kv, "mask": self.mask, "logits": self.logits}.items():
            if not 0 < encoding.scale < LARGEST_SCALE:
                raise HexportError(
                    f"quant attrs: {point}: scale {encoding.scale} is no positive number; "
                    "check the weights for NaN and calibrate again"
                )

    def encoding(self, point: str) -> Encoding:
        """Return the encoding of a point, such as `layers.3.add`; raise HexportError where it is missing."""
        if point not in self.activations:
            raise HexportError(f"quant attrs: point {point} is missing; calibrate again")
        return self.activations[point]


def save_quant_attrs(path: Path, attrs: QuantAttrs, *, model: str, recipe: str, checkpoint: str, calibration: dict):
    """Write quant attrs, without the coded weights.

    The scale and zero_point at the top are those of the logits, where tools for ExecuTorch's own script read them.
    `model` and `recipe` are names, `checkpoint` is the SHA-256 of the checkpoint's weights, and `calibration` says what
    the ranges are from.
    """
    write_json(
        path,
        {
            "scale": attrs.logits.scale,
            "zero_point": attrs.logits.zero_point,
            "schema": SCHEMA,
            "model": model,
            "recipe": recipe,
            "checkpoint_sha256": checkpoint,
            "calibration": calibration,
            "mask": attrs.mask.as_json(),
            "kv": [{name: encoding.as_json() for name, encoding in layer.items()} for layer in attrs.kv],
            "logits": attrs.logits.as_json(),
            "activations": {point: encoding.as_json() for point, encoding in attrs.activations.items()},
        },
    )


@dataclass(frozen=True)
class Origin:
    """An origin names the model and the recipe that quant attrs are for, and their checkpoint by its SHA-256."""

    model: str
    recipe: str
    checkpoint_sha256: str


def load_quant_attrs(path: Path) -> QuantAttrs:
    """Read quant attrs. Raises HexportError as `read_quant_attrs` does."""
    return read_quant_attrs(path)[0]


def read_quant_attrs(path: Path) -> tuple[QuantAttrs, Origin]:
    """Read quant attrs and their origin.

    Raises HexportError for a file that `save_quant_attrs` of this version did not write: for other keys, types or
    codes, a number that is not finite, and a place that contradicts another one.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise HexportError("expected a JSON object; calibrate again")
        if content.get("schema") != SCHEMA:
            raise HexportError(f"schema {content.get('schema')!r}, expected {SCHEMA}; calibrate again")
        _check_keys("", content, KEYS)
        attrs = QuantAttrs(
            activations={p: _encoding(p, entry) for p, entry in _value(content, "activations", dict).items()},
            kv=[_kv(i, layer) for i, layer in enumerate(_value(content, "kv", list))],
            mask=_encoding("mask", content["mask"]),
            logits=_encoding("logits", content["logits"]),
        )
        if [content["scale"], content["zero_point"]] != [attrs.logits.scale, attrs.logits.zero_point]:
            raise HexportError("scale and zero_point are not those of logits; calibrate again")
        _value(content, "calibration", dict)
        return attrs, Origin(*(_value(content, key, str) for key in ("model", "recipe", "checkpoint_sha256")))
    except HexportError as error:
        raise HexportError(f"{path}: {error}") from None
    except RecursionError:
        raise HexportError(f"{path}: not JSON: nested too deeply; calibrate again") from None
    except ValueError as error:
        raise HexportError(f"{path}: not JSON: {error}; calibrate again") from None


def _check_keys(where: str, content: object, keys: set[str]) -> None:
    if not isinstance(content, dict):
        raise HexportError(f"{where} is {_short(content)}, expected an object; calibrate again")
    where = f"{where}: " if where else ""
    for key in sorted(keys - content.keys()):
        raise HexportError(f"{where}{key} is missing; calibrate again")
    for key in sorted(content.keys() - keys):
        raise HexportError(f"{where}{key} is unknown; calibrate again")


def _value(content: dict, key: str, kind: type[T]) -> T:
    if not isinstance(content[key], kind):
        raise HexportError(f"{key} is {_short(content[key])}, expected {KINDS[kind]}; calibrate again")
    return content[key]


def _kv(layer: int, entry: object) -> dict[str, Encoding]:
    _check_keys(f"kv[{layer}]", entry, {"k", "v"})
    return {name: _encoding(f"kv[{layer}].{name}", entry[name]) for name in ("k", "v")}


def _encoding(point: str, entry: object) -> Encoding:
    _check_keys(point, entry, ENCODING_KEYS)
    if isinstance(entry["scale"], bool) or not isinstance(entry["scale"], int | float):
        raise HexportError(f"{point}: scale is {_short(entry['scale'])}, expected a number; calibrate again")
    for key in ("zero_point", "qmin", "qmax", "bits"):
        if type(entry[key]) is not int:
            raise HexportError(f"{point}: {key} is {_short(entry[key])}, expected a whole number; calibrate again")
    if (entry["qmin"], entry["qmax"]) not in CODES:
        raise HexportError(
            f"{point}: codes from {entry['qmin']} to {entry['qmax']}, which no observer has; calibrate again"
        )
    encoding = Encoding(entry["scale"], entry["zero_point"], entry["qmin"], entry["qmax"])
    if not encoding.qmin <= encoding.zero_point <= encoding.qmax:
        raise HexportError(
            f"{point}: zero_point {encoding.zero_point} lies outside {encoding.qmin} to {encoding.qmax}; "
            "calibrate again"
        )
    if entry["bits"] != encoding.bits:
        raise HexportError(f"{point}: bits {entry['bits']}, and the codes have {encoding.bits}; calibrate again")
    return encoding


def _short(value: object) -> str:
    return repr(value) if isinstance(value, int | float | bool | None) else type(value).__name__
