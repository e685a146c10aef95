"""This module reads results of evaluations and runs for later stages: JSON files of ours, which anyone
may have edited.
"""

from pathlib import Path

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from hexport.errors import HexportError
from hexport.json_file import read_json

NUMBER = {"type": ["number", "null"]}
SPEEDS = ("load_ms", "ttft_ms", "prefill_tokens_per_s", "decode_tokens_per_s")
FIGURES = ("sqnr_db", "kl_divergence", "top1_agreement", "top1_agreement_qdq", "tokens", "limit")
EVALUATION = {
    "required": ["tasks"],
    "properties": {
        "tasks": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "additionalProperties": {"type": ["number", "null", "string"]},
                "properties": {"word_perplexity": NUMBER},
            },
        },
        "perplexity_ratio": {"type": "object", "additionalProperties": {**NUMBER, "exclusiveMinimum": 0}},
        "graph": {"type": "string"},
        "layers": {
            "type": "array",
            "items": {"type": "object", "required": ["sqnr_db"], "properties": {"sqnr_db": NUMBER}},
        },
        "worst_layers": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        **dict.fromkeys(FIGURES, NUMBER),
    },
}
OF_GATES = ("perplexity_ratio", "sqnr_db")
OF_REPORTS = (*OF_GATES, "layers", "worst_layers")
ANSWERS = {
    "required": ["model", "recipe", "target", "device", "mode", "prompts"],
    "properties": {
        "prompts": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["prompt", "text", "ttft_ms", "decode_tokens_per_s"],
                "properties": {"conversation": {"type": "integer", "minimum": 0}, **dict.fromkeys(SPEEDS, NUMBER)},
            },
        },
        "repeats": {
            "type": "object",
            "properties": {
                "prompts": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "additionalProperties": {"type": "object", "properties": {"spread": NUMBER}},
                    },
                }
            },
        },
    },
}


def read_evaluation(path: Path, needed: tuple[str, ...] = ()) -> dict:
    """Return the content of fp.json, qdq.json or evaluation.json.

    Raises HexportError where it has another form, or lacks one of the keys that are needed.
    """
    content = _read(path, EVALUATION, "evaluate")
    for key in needed:
        if key not in content:
            raise HexportError(f"{path}: {key} is missing; evaluate again")
    for task in content.get("perplexity_ratio", {}):
        if "word_perplexity" not in content["tasks"].get(task, {}):
            raise HexportError(f"{path}: tasks: {task}: its perplexity_ratio is of no word_perplexity; evaluate again")
    layers = range(len(content.get("layers", ())))
    if beyond := [layer for layer in content.get("worst_layers", ()) if layer not in layers]:
        raise HexportError(f"{path}: worst_layers: there is no layer {beyond[0]}; evaluate again")
    return content


def read_answers(path: Path) -> dict:
    """Return the content of result.json. Raises HexportError where it has another form."""
    return _read(path, ANSWERS, "run")


def _read(path: Path, schema: dict, stage: str) -> dict:
    content = read_json(path)
    if error := best_match(Draft202012Validator(schema).iter_errors(content)):
        where = "".join(f"{part}: " for part in error.path)
        raise HexportError(f"{path}: {where}{error.message[:200]}; {stage} again")
    return content
