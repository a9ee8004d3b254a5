"""Output of the commands: tables, JSON, warnings."""

import json
from collections.abc import Sequence
from typing import Any

import click


def print_json(value: Any) -> None:
    """Print one JSON document on stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on stdout, 140 columns wide unless stdout is a terminal.

    Args:
        head: The column titles.
        rows: The cells of each row, one per column. A column of numbers is aligned to the right.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column, name in enumerate(head):
        cells = [row[column] for row in rows]
        number = bool(cells) and all(c[:1].isdigit() or c == "none" for c in cells)
        table.add_column(Text(name), justify="right" if number else "left")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = Console(highlight=False)
    (console if console.is_terminal else Console(highlight=False, width=140)).print(table)


def warn(message: str) -> None:
    """Print a warning on stderr."""
    click.echo(f"warning: {message}", err=True)
