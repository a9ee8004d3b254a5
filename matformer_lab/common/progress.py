"""Progress of long work: a bar on a terminal or in a notebook, silence elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

Advance = Callable[[int], None]
"""Called with the work done since the last call (bytes, items)."""


def quiet(_: int) -> None:
    """Shows nothing."""


def bar_console() -> "tuple[Console, bool]":
    """Where bars are drawn, and whether anybody would see them there."""
    from rich.console import Console

    console = Console(stderr=True)
    # In a notebook, rich draws with ipywidgets and warns where they are not installed.
    return console, console.is_terminal or bool(console.is_jupyter and find_spec("ipywidgets"))


Progress = bool | Advance
"""What public functions take: True shows a bar where somebody would see it, False nothing; or a
function that is told the bytes done since its last call."""


@contextmanager
def bytes_bar(title: str, total: int, progress: Progress = True) -> Iterator[Advance]:
    """A bar over `total` bytes, or what `progress` asks for instead."""
    if callable(progress):
        yield progress
        return
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    console, visible = bar_console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    from rich import progress as bars

    shown = progress and visible
    with bars.Progress(*columns, console=console, disable=not shown) as bar:
        task = bar.add_task(escape(title), total=total)
        yield lambda done: bar.advance(task, done)
