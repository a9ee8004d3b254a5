"""Progress of long work: a bar on a terminal or in a notebook, nothing elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

from matformer_lab.common.printable import printable

if TYPE_CHECKING:
    from rich.console import Console

Advance = Callable[[int], None]
"""Called with the amount of work done since the last call: bytes or items."""


def quiet(_: int) -> None:
    """The `Advance` that ignores what it is told."""


class BarConsole(NamedTuple):
    """Where progress bars are drawn.

    Attributes:
        console: rich's console on stderr.
        visible: Whether a bar there can be seen: false in a pipe or a log file.
    """

    console: "Console"
    visible: bool


def bar_console() -> BarConsole:
    """The console for progress bars, and whether to draw on it."""
    from rich.console import Console

    console = Console(stderr=True)
    # In a notebook, rich draws with ipywidgets and warns if they are not installed.
    widgets = bool(console.is_jupyter and find_spec("ipywidgets"))
    return BarConsole(console, console.is_terminal or widgets)


def duration(seconds: float) -> str:
    """Seconds in words: `under 1 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 1:
        return "under 1 s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


Progress = bool | Advance
"""The `progress` of public functions: True shows a bar where it can be seen, False shows nothing,
and a function is called with the bytes done since its last call."""


@contextmanager
def bytes_bar(title: str, total: int, progress: Progress = True) -> Iterator[Advance]:
    """Show the progress of work on bytes while the `with` block runs.

    Args:
        title: What the bar says.
        total: All the work, in bytes.
        progress: True for a bar, False for nothing, or a function that replaces the bar.

    Yields:
        The function to call with the bytes done since the last call.
    """
    if callable(progress):
        yield progress
        return
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    console, visible = bar_console()
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    from rich import progress as bars

    shown = progress and visible
    with bars.Progress(*columns, console=console, disable=not shown) as bar:
        task = bar.add_task(printable(title), total=total)
        yield lambda done: bar.advance(task, done)
