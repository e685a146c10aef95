"""This module writes what is told of a verification: one JSON document, of which tables and cards are made."""

import math
from importlib import metadata

from hexport import __version__
from hexport.decoder.device import machine
from hexport.file_hashes import sha256
from hexport.programs.layout import lengths_of
from hexport.verification.sources import Reference
from hexport.verification.verdict import Found
from hexport.verification.verify import Verification

PACKAGES = ("executorch", "torch", "transformers")


def document_of(verification: Verification, checkpoint: str, model: Reference) -> dict:
    """Return the JSON document of a verification. checkpoint: its name as the user gave it.

    Figures that are not finite, such as the SQNR of equal logits, are None. `ran` is the program whose figures these
    are: the one at hand, or its twin.
    """
    program, config, ran = verification.program, model.checkpoint.config, verification.ran
    options = program.options
    return {
        "verdict": verification.verdict,
        "faults": verification.faults,
        "notes": verification.notes,
        "program": {
            "name": program.path.name,
            "sha256": sha256(program.path),
            "bytes": program.n_bytes,
            "soc": options.soc if options else None,
            "htp_arch": options.htp_arch if options else None,
            **lengths_of(program),
        },
        "checkpoint": {
            "name": checkpoint,
            "sha256": sha256(model.checkpoint.path),
            "family": config.family,
            "layers": config.n_layers,
        },
        "versions": {
            "hexport": __version__,
            **{name: metadata.version(name) for name in PACKAGES},
            "qnn of the program": next((data.qnn_build for data in program.delegate_data if data.qnn_build), None),
            "qnn of the emulator": ran.qnn,
        },
        "machine": machine(),
        "ran": {"name": str(ran.program.path), "sha256": sha256(ran.program.path)} if ran.found else None,
        "tokens": ran.tokens,
        "found": _figures(ran.found, model) if ran.found else None,
        "ops": ran.layers.as_json() if ran.layers else None,
    }


def _figures(found: Found, model: Reference) -> dict:
    return {
        "text": {name: _finite(value) for name, value in found.text.items()},
        "first_block_db": _finite(found.first_block_db),
        "cached_db": _finite(found.cached_db),
        **({} if found.again_db is None else {"read_again_db": _finite(found.again_db)}),
        "decoded_db": _finite(found.decoded_db),
        "qdq_db": _finite(found.qdq_db),
        "qdq_float_db": _finite(found.qdq_float_db),
        "layers": [
            {"k_db": _finite(k), "v_db": _finite(v)}
            for k, v in zip(found.keys_db or (), found.layers_db or (), strict=True)
        ],
        "departs": found.located,
        "answer": {
            "token_ids": found.answer,
            "text": model.used.decode(found.answer) if model.used else None,
            "like_float": found.answer_like_float,
        },
        "mistakes": [
            {
                "name": mistake.name,
                "looks": mistake.looks,
                "share": _finite(projection.share),
                "deviation": _finite(projection.deviation),
                "level_db": _finite(projection.level_db),
                "seen": projection.is_seen,
                "made": found.is_made(projection),
            }
            for mistake, projection in found.mistakes
        ],
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
