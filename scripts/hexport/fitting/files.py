"""This module writes a fitted recipe as YAML, and its curve of size against perplexity as CSV and as SVG."""

from collections.abc import Iterable, Sequence
from typing import Any

from hexport.fitting.fit import Fitted
from hexport.report.charts import curve

Row = tuple[int, float, float, float | None]  # as of `Fitter.table`


def recipe_yaml(fitted: Fitted, base: str, heading: Iterable[str]) -> str:
    """Return the content of a recipe in config.yaml that is based on `base`, below `heading` as comments."""
    content = {key: value for key, value in fitted.content.items() if key != "overrides"}
    lines = [f"# {line}" for line in heading]
    lines += [f"{key}: {_scalar(value)}" for key, value in {"based_on": base, **content}.items()]
    overrides = fitted.content["overrides"]
    lines.append("overrides:" if overrides else "overrides: []")
    for override in overrides:
        lines.append(f"  - {{{', '.join(f'{key}: {_scalar(value)}' for key, value in override.items())}}}")
    return "\n".join(lines) + "\n"


def curve_csv(rows: Iterable[Row]) -> str:
    """Return a curve as CSV with a header: megabytes, nats per token, expected and measured perplexity ratio."""
    lines = ["size_mb,predicted_kl_nats,perplexity_ratio,measured_perplexity_ratio"]
    for size, damage, ratio, measured in rows:
        lines.append(f"{size / 1e6:.3f},{damage:.5f},{ratio:.4f},{'' if measured is None else f'{measured:.4f}'}")
    return "\n".join(lines) + "\n"


def curve_svg(rows: Sequence[Row], title: str) -> str:
    """Return a chart as SVG: a line through the expected perplexities, and a dot for each recipe that was measured."""
    expected = [(size / 1e6, ratio) for size, _, ratio, _ in rows]
    measured = [(size / 1e6, ratio) for size, _, _, ratio in rows if ratio is not None]
    return curve(expected, measured, "size of the program, MB (estimate)", "perplexity, float model = 1", title)


def _scalar(value: Any) -> str:
    """Write a value as YAML. Texts of globs and of numbers of layers need quotes."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and not value.replace("_", "").replace(".", "").isalpha():
        return f'"{value}"'
    return str(value)
