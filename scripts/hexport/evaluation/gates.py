"""This module checks gates: what a quantised model must reach before its programs count as exported
and reach a device.
"""

from collections.abc import Iterator

from hexport.errors import HexportError

WARNING_RATIO = 1.2  # a perplexity this many times the float model's is worth a line, gate or not
WARNING_AGREEMENT = 0.9  # a program that computes what was calibrated agrees for 0.93 and more of the tokens
ADVICE = "docs/evaluation.md tells how to mend it"


def perplexity_ratios(metrics: dict[str, dict], reference: dict[str, dict]) -> dict[str, float | None]:
    """Return word_perplexity over that of the reference, of each task that has it; None where it is not finite."""
    ratios = {}
    for task, found in metrics.items():
        if "word_perplexity" in found:
            perplexity, of_reference = found["word_perplexity"], reference[task]["word_perplexity"]
            ratios[task] = perplexity / of_reference if perplexity and of_reference else None
    return ratios


def check_gates(qdq: dict, gates: dict) -> None:
    """Raise HexportError, with the figures, where a quantised model or a ready program fails a gate.

    qdq: content of qdq.json, or of evaluation.json. gates: "model", and one or both of "max_perplexity_ratio" and
    "min_sqnr_db", such as `{"model": "m", "min_sqnr_db": 15}`. A figure that is missing or no finite number fails its
    gate.
    """
    if failures := [f"models.{gates['model']}.evaluation.{line}" for line in _failures(qdq, gates)]:
        held_back = "" if qdq.get("phase") == "device" else "; nothing of it goes to a device"
        raise HexportError(f"{'; '.join(failures)}{held_back}; {ADVICE}")


def ratio_warnings(qdq: dict) -> list[str]:
    """Return a line for each task whose perplexity, in qdq.json or evaluation.json, is more than WARNING_RATIO times
    fp's.
    """
    return [
        f"warning: task {task}: perplexity over that of fp: {_more_than(WARNING_RATIO, qdq, task)}; {ADVICE}"
        for task, ratio in qdq["perplexity_ratio"].items()
        if ratio is None or ratio > WARNING_RATIO
    ]


def device_warnings(device: dict) -> list[str]:
    """Return the lines of `ratio_warnings`, and one where the program's first choices agree with those of the
    fake-quantised model for less than WARNING_AGREEMENT of the tokens. `device` is the content of evaluation.json,
    which has neither where a ready program is compared with nothing.
    """
    lines = ratio_warnings(device) if "perplexity_ratio" in device else []
    agreement = device.get("top1_agreement_qdq", 1.0)
    if agreement is None or agreement < WARNING_AGREEMENT:
        found = "unknown" if agreement is None else f"{agreement:.3f}"
        lines.append(
            f"warning: top-1 agreement of the program with the fake-quantised model is {found}, "
            f"less than {WARNING_AGREEMENT}; {ADVICE}"
        )
    return lines


def _failures(qdq: dict, gates: dict) -> Iterator[str]:
    max_ratio, min_sqnr = gates.get("max_perplexity_ratio"), gates.get("min_sqnr_db")
    ratios, sqnr = qdq["perplexity_ratio"], qdq["sqnr_db"]
    if max_ratio is not None and not ratios:
        yield f"max_perplexity_ratio: {', '.join(qdq['tasks'])}: no perplexity is measured; add a text to its tasks"
    for task, ratio in ratios.items():
        if max_ratio is not None and (ratio is None or ratio > max_ratio):
            yield f"max_perplexity_ratio: task {task}: {_more_than(max_ratio, qdq, task)}"
    if min_sqnr is not None and (sqnr is None or sqnr < min_sqnr):
        found = "the SQNR is not finite" if sqnr is None else f"{sqnr:.1f} dB is less than {min_sqnr:g} dB"
        yield f"min_sqnr_db: {found}"


def _more_than(limit: float, qdq: dict, task: str) -> str:
    """Return the perplexities of the quantised and of the float model, and their ratio: `23.1 / 19.9 = 1.161 is more
    than 1.1`.
    """
    ratio, perplexity = qdq["perplexity_ratio"][task], qdq["tasks"][task]["word_perplexity"]
    if ratio is None or perplexity is None:
        return "not finite"
    return f"{perplexity:.4g} / {perplexity / ratio:.4g} = {ratio:.4g} is more than {limit:g}"
