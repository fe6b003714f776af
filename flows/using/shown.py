"""Answers about images on the way to a person: a table, or JSON lines for a program; progress on stderr meanwhile."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from flows.terminal import plain

Row = Mapping[str, Any]


def show(rows: Iterable[Row], columns: Mapping[str, Callable[[Row], str]], as_json: bool) -> None:
    """Print each row as a line of ASCII JSON when it comes, or all as a table with these columns at the end."""
    if as_json:
        for row in rows:
            print(json.dumps(row, allow_nan=False), flush=True)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=box.SIMPLE_HEAD)
    for row in rows:
        # As Text: a caption is no markup.
        table.add_row(*(Text(plain(cell(row)), overflow="fold") for cell in columns.values()))
    if table.row_count:
        Console(width=None if sys.stdout.isatty() else 160).print(table)


@contextmanager
def progress(title: str, total: int, as_json: bool) -> Iterator[Callable[[int], None]]:
    """A bar on stderr while a block runs, if somebody looks; `advance(count)` moves it."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    # Where lines come to the same terminal, a bar would be drawn between them.
    hidden = not sys.stderr.isatty() or (as_json and sys.stdout.isatty())
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,
        disable=hidden,
    ) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)
