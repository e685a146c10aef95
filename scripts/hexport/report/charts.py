"""This module draws charts as SVG, which a page holds itself: they have no script, and nothing from elsewhere. Colours
of text are the page's."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence

import pygal
from pygal.style import Style

INK = "currentColor"
COLOURS = ("#3b7dd8", "#d9822b", "#2a9d6f", "#b0479a", "#c2413b", "#7a6ad8", "#8a8f2a", "#4aa3b5")
STYLE = Style(
    background="transparent",
    plot_background="transparent",
    foreground=INK,
    foreground_strong=INK,
    foreground_subtle=INK,
    colors=COLOURS,
    font_family="sans-serif",
    guide_stroke_color=INK,
    major_guide_stroke_color=INK,
    label_font_size=12,
    major_label_font_size=12,
)
COMMON = {
    "style": STYLE,
    "js": (),
    "disable_xml_declaration": True,
    "width": 760,
    "height": 400,
    "margin_bottom": 30,
    "legend_at_bottom": True,
    "legend_at_bottom_columns": 2,
    "truncate_legend": -1,
}


def scatter(points: Mapping[str, Sequence[tuple[float, float]]], x: str, y: str) -> str:
    """Return a chart of series of points by name, each point (x, y)."""
    chart = pygal.XY(stroke=False, x_title=x, y_title=y, dots_size=5, **COMMON)
    labelled = {name: [{"value": value, "label": name} for value in values] for name, values in points.items()}
    return _svg(chart, labelled)


def curve(line: Sequence[tuple[float, float]], dots: Sequence[tuple[float, float]], x: str, y: str, title: str) -> str:
    """Return a chart with a line through what is expected, and dots for what was measured."""
    chart = pygal.XY(title=title, x_title=x, y_title=y, print_values=False, **COMMON)
    chart.add("expected", list(line), show_dots=False)
    chart.add("measured", list(dots), stroke=False, dots_size=5)
    return _svg(chart, {})


def lines(series: Mapping[str, Sequence[float | None]], x: str, y: str) -> str:
    """Return a chart of series of values by name. The values are numbered from 0 on."""
    chart = pygal.Line(x_title=x, y_title=y, dots_size=2, show_minor_x_labels=False, **COMMON)
    longest = max((len(values) for values in series.values()), default=0)
    chart.x_labels = [str(i) for i in range(longest)]
    chart.x_labels_major_every = max(longest // 10, 1)
    return _svg(chart, series)


def stacked_bars(names: Iterable[str], series: Mapping[str, Sequence[float | None]], x: str) -> str:
    """Return a chart with a bar for each name, made of parts by the names of the series."""
    labels = list(names)
    height = 150 + 28 * len(labels) + 12 * len(series)
    chart = pygal.HorizontalStackedBar(x_title=x, **COMMON | {"height": height})
    chart.x_labels = labels
    return _svg(chart, series)


def _svg(chart: pygal.graph.graph.Graph, series: Mapping[str, Sequence]) -> str:
    """Return the SVG of a chart with these series added, without the library's script, which only shows tooltips, and
    without its date and random name: equal figures make equal charts."""
    for name, values in series.items():
        chart.add(name, list(values))
    text = re.sub(r"<script.*?</script>|<!--.*?-->", "", chart.render(is_unicode=True), flags=re.DOTALL)
    return text.replace(chart.uuid, hashlib.sha256(text.replace(chart.uuid, "").encode()).hexdigest()[:12])
