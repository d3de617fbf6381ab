"""Tables for people, JSON for programs."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from hashzoo.text import clean

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def say(words: object, *, fg: str | None = None, err: bool = False) -> None:
    """Print one line, whatever others may have written into it."""
    typer.secho(clean(words), fg=fg, err=err)


def print_json(value: Any) -> None:
    """Print a value as JSON; paths and other objects as strings."""
    typer.echo(json.dumps(value, indent=2, default=str))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table; numbers to the right, "-" where there is nothing."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(columns):
        numeric = all(isinstance(row[place], int | float | None) for row in rows)
        table.add_column(Text(clean(column)), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        cells = [f"{value:.4f}" if isinstance(value, float) else clean(value) for value in row]
        table.add_row(*(Text("-" if cell == "None" else cell) for cell in cells))  # brackets are no markup
    console = Console()
    if not console.is_terminal:  # in a pipe no line is folded
        console.width = 100_000
    console.print(table)
