"""Tables on the terminal: aligned for eyes, one line a row when piped into another program."""

import sys
from typing import Any


def text_of(value: Any) -> str:
    """A cell: numbers short, lists joined, None as a dash."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(text_of(v) for v in value)
    return str(value)


def print_rows(rows: list[dict[str, Any]], *, title: str | None = None) -> None:
    """Print rows (dicts of one set of keys) as a table with the keys as heads."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for key in rows[0]:
        table.add_column(str(key), overflow="fold")
    for row in rows:
        table.add_row(*(text_of(row[key]) for key in rows[0]))
    width = None if sys.stdout.isatty() else 200
    Console(width=width, highlight=False).print(table, markup=False)
