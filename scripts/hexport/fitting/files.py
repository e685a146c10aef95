"""A fitted recipe as YAML, and its curve of size against perplexity as CSV and as SVG."""

from collections.abc import Iterable, Sequence
from typing import Any

from hexport.fitting.fit import Fitted

Row = tuple[int, float, float, float | None]  # as of `Fitter.table`
WIDTH, HEIGHT, MARGIN = 720, 420, 60
TICKS = 5


def recipe_yaml(fitted: Fitted, base: str, heading: Iterable[str]) -> str:
    """The content of a recipe in config.yaml that is based on `base`, below comments."""
    content = {key: value for key, value in fitted.content.items() if key != "overrides"}
    lines = [f"# {line}" for line in heading]
    lines += [f"{key}: {_scalar(value)}" for key, value in {"based_on": base, **content}.items()]
    overrides = fitted.content["overrides"]
    lines.append("overrides:" if overrides else "overrides: []")
    for override in overrides:
        lines.append(f"  - {{{', '.join(f'{key}: {_scalar(value)}' for key, value in override.items())}}}")
    return "\n".join(lines) + "\n"


def curve_csv(rows: Iterable[Row]) -> str:
    lines = ["size_mb,predicted_kl_nats,perplexity_ratio,measured_perplexity_ratio"]
    for size, damage, ratio, measured in rows:
        lines.append(f"{size / 1e6:.3f},{damage:.5f},{ratio:.4f},{'' if measured is None else f'{measured:.4f}'}")
    return "\n".join(lines) + "\n"


def curve_svg(rows: Sequence[Row], title: str) -> str:
    """A line through what is expected, and a dot, with its figures, for each recipe that was measured."""
    sizes, ratios = [size / 1e6 for size, *_ in rows], [ratio for _, _, ratio, _ in rows]
    left, right, low, high = min(sizes), max(sizes), min(*ratios, 1.0), max(ratios)
    spans = max(right - left, 1e-6), max(high - low, 1e-6)

    def place(size: float, ratio: float) -> str:
        x = MARGIN + (size - left) / spans[0] * (WIDTH - 2 * MARGIN)
        return f"{x:.1f},{HEIGHT - MARGIN - (ratio - low) / spans[1] * (HEIGHT - 2 * MARGIN):.1f}"

    parts = [_text(f"{WIDTH / 2},24", title, "middle")]
    for i in range(TICKS):
        size, ratio = left + i / (TICKS - 1) * spans[0], low + i / (TICKS - 1) * spans[1]
        x, y = place(size, ratio).split(",")
        parts += [_text(f"{x},{HEIGHT - MARGIN + 18}", f"{size:.0f}", "middle")]
        parts += [_text(f"{MARGIN - 8},{float(y) + 4}", f"{ratio:.3f}", "end")]
        parts += [f'<path d="M{MARGIN},{y}H{WIDTH - MARGIN}" stroke="#ddd"/>']
    parts.append(_text(f"{WIDTH / 2},{HEIGHT - 14}", "size of the program, MB (estimate)", "middle"))
    parts.append(_text(f"{MARGIN - 40},{MARGIN - 16}", "perplexity, float model = 1", "start"))
    line = " ".join(place(*pair) for pair in zip(sizes, ratios, strict=True))
    parts.append(f'<polyline points="{line}" fill="none" stroke="#36c" stroke-width="2"/>')
    for size, _, _, measured in rows:
        if measured is not None:
            x, y = place(size / 1e6, measured).split(",")
            parts.append(f'<circle cx="{x}" cy="{y}" r="4" fill="#c33"/>')
            parts.append(_text(f"{x},{float(y) - 10}", f"{size / 1e6:.1f} MB: {measured:.3f}", "middle"))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">'
    background = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
    return "\n".join([head, background, *parts, "</svg>"]) + "\n"


def _text(place: str, text: str, anchor: str) -> str:
    x, y = place.split(",")
    escaped = text.replace("&", "&amp;").replace("<", "&lt;")
    return f'<text x="{x}" y="{y}" font-size="12" text-anchor="{anchor}">{escaped}</text>'


def _scalar(value: Any) -> str:
    """Of YAML. What globs and numbers of layers are made of needs quotes."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and not value.replace("_", "").replace(".", "").isalpha():
        return f'"{value}"'
    return str(value)
