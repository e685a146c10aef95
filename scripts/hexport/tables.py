"""This module makes the tables that scripts print, and prints them."""

from collections.abc import Collection, Iterable
from typing import TextIO

from rich.console import Console
from rich.table import Table


def table_console(file: TextIO, width: int = 160) -> Console:
    """Return what prints tables to a file, in lines of `width` characters where it is no terminal."""
    return Console(file=file, width=None if file.isatty() else width, highlight=False, markup=False)


def printed_table(columns: Iterable[str], figures: Collection[str] = ()) -> Table:
    """Return an empty table with these columns. Those of figures stand to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold", justify="right" if column in figures else "left")
    return table
