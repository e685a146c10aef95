"""This module writes the card of a program: one page to publish beside it, as Markdown and as HTML."""

import jinja2

from hexport.verification.tables import MISTAKE_COLUMNS, mistake_rows, rows_of

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>{{ name }}: {{ verdict }}</title>
<style>
body { font: 15px/1.4 sans-serif; margin: 2em auto; max-width: 60em; padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0 }
th, td { border-bottom: 1px solid #ccc; padding: .2em .8em; text-align: left; vertical-align: top }
td { overflow-wrap: anywhere }
</style>
<h1>{{ name }}: {{ verdict }}</h1>
<table>
{% for name, value in rows %}
<tr><th>{{ name }}</th><td>{{ value }}</td></tr>
{% endfor %}
</table>
{% if mistakes %}
<h2>Mistakes that were looked for</h2>
<p>{{ explained }}</p>
<table>
<tr>{% for column in columns %}<th>{{ column }}</th>{% endfor %}</tr>
{% for row in mistakes %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</table>
{% endif %}
</html>
"""
EXPLAINED = (
    "The share of what a mistake does to logits that is in the program's logits: 0 is none of it, 1 all. Its size is "
    "that against the program's noise."
)


def html_card(document: dict) -> str:
    """Return the card as an HTML page. `document` is that of `document.document_of`; its texts are escaped."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(PAGE).render(
        name=document["program"]["name"],
        verdict=document["verdict"],
        rows=rows_of(document)[1:],
        mistakes=mistake_rows(document) if document["found"] else [],
        columns=MISTAKE_COLUMNS,
        explained=EXPLAINED,
    )


def markdown_card(document: dict) -> str:
    """Return the card as Markdown. `document` is that of `document.document_of`; its texts are escaped."""
    title = f"# {_cell(document['program']['name'])}: {document['verdict']}"
    parts = [title, _table(("", ""), rows_of(document)[1:])]
    if document["found"]:
        parts += ["## Mistakes that were looked for", EXPLAINED, _table(MISTAKE_COLUMNS, mistake_rows(document))]
    return "\n\n".join(parts) + "\n"


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [columns, ("---",) * len(columns), *(tuple(map(_cell, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """Escape a text for a cell: Markdown's own characters may come from anyone's file names and texts."""
    return "".join(f"\\{char}" if char in "\\`*_{}[]<>()#|" else char for char in text)
