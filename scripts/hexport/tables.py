"""This module makes the tables that scripts print."""

from collections.abc import Collection, Iterable

from rich.table import Table


def printed_table(columns: Iterable[str], figures: Collection[str] = ()) -> Table:
    """Return an empty table with these columns. Those of figures stand to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold", justify="right" if column in figures else "left")
    return table
