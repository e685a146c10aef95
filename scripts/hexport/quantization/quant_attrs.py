"""Quant attrs: the calibrated scale and zero point of every activation, as JSON.

They are keyed by layer and point, so they hold for every mode, AR length, context length and SoC.
"""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from hexport.errors import HexportError
from hexport.provenance import write_json

SCHEMA = 2


@dataclass(frozen=True)
class Encoding:
    """real = (code - zero_point) * scale, for codes in [qmin, qmax]"""

    scale: float
    zero_point: int
    qmin: int
    qmax: int

    @property
    def bits(self) -> int:
        return (self.qmax - self.qmin).bit_length()

    def as_json(self) -> dict:
        return {**asdict(self), "bits": self.bits}


@dataclass(frozen=True)
class QuantAttrs:
    """activations: encodings by point, in graph order. kv: k and v of each layer. mask, logits: the runtime's I/O.

    weights: by projection (`layers.3.attention.q_proj`), float32 (out,), the fraction of each output channel's min-max
    range that is coded, where another one than 1 was found to be better.
    """

    activations: dict[str, Encoding]
    kv: list[dict[str, Encoding]]
    mask: Encoding
    logits: Encoding
    weights: dict[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self):
        kv = {f"kv[{i}].{name}": encoding for i, layer in enumerate(self.kv) for name, encoding in layer.items()}
        for point, encoding in {**self.activations, **kv, "mask": self.mask, "logits": self.logits}.items():
            if not (math.isfinite(encoding.scale) and encoding.scale > 0):
                raise HexportError(
                    f"quant attrs: {point}: scale {encoding.scale} is no positive number; "
                    "check the weights for NaN and calibrate again"
                )

    def weight_ratios(self, projection: str) -> torch.Tensor | None:
        return self.weights.get(projection)

    def encoding(self, point: str) -> Encoding:
        if point not in self.activations:
            raise HexportError(f"quant attrs: point {point} is missing; calibrate again")
        return self.activations[point]


def save_quant_attrs(path: Path, attrs: QuantAttrs, *, model: str, recipe: str, checkpoint: str, calibration: dict):
    """Write the quant attrs; top-level scale and zero_point are those of the logits, which existing tools read."""
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
            "weights": {name: [round(ratio, 6) for ratio in ratios.tolist()] for name, ratios in attrs.weights.items()},
        },
    )


def load_quant_attrs(path: Path) -> QuantAttrs:
    """Raises HexportError for a file that `save_quant_attrs` of this version did not write."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("schema") != SCHEMA:
            raise HexportError(f"schema {content.get('schema')!r}, expected {SCHEMA}; calibrate again")
        return QuantAttrs(
            activations={point: _encoding(entry) for point, entry in content["activations"].items()},
            kv=[{name: _encoding(layer[name]) for name in ("k", "v")} for layer in content["kv"]],
            mask=_encoding(content["mask"]),
            logits=_encoding(content["logits"]),
            weights={name: torch.tensor(ratios) for name, ratios in content["weights"].items()},
        )
    except HexportError as error:
        raise HexportError(f"{path}: {error}") from None
    except json.JSONDecodeError as error:
        raise HexportError(f"{path}: not JSON: {error}; calibrate again") from None
    except KeyError as error:
        raise HexportError(f"{path}: {error.args[0]} is missing; calibrate again") from None


def _encoding(entry: dict) -> Encoding:
    return Encoding(entry["scale"], entry["zero_point"], entry["qmin"], entry["qmax"])
