"""Everything that the commands print goes through here: lines, tables, JSON, warnings, errors.

What they print holds names and messages that others chose. It is printed as text: control
characters and marks that change the direction of writing as escapes, brackets as brackets.
"""

import io
import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any, TextIO

from matformer_lab.common.errors import InputError
from matformer_lab.common.printable import printable, shown


def say(line: str) -> None:
    """Print one line on stdout."""
    _write(sys.stdout, printable(line) + "\n")


def print_json(value: Any) -> None:
    """Print one JSON document on stdout, in ASCII."""
    _write(sys.stdout, json.dumps(value, indent=2) + "\n")


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
        table.add_column(Text(printable(name)), justify="right" if number else "left")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    canvas = _Canvas()
    Console(file=canvas, highlight=False, width=None if canvas.isatty() else 140).print(table)
    _write(sys.stdout, canvas.getvalue())


class _Canvas(io.StringIO):
    """Where rich draws for stdout, instead of on it: rich ends the process with exit code 1 when
    the reader of a pipe is gone."""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """That of stdout, which decides how boxes are drawn."""
        return sys.stdout.encoding or "ascii"

    def isatty(self) -> bool:
        """Whether stdout is a terminal, which decides about bold type."""
        return sys.stdout.isatty()


def warn(message: str) -> None:
    """Print a warning on stderr."""
    _write(sys.stderr, f"warning: {shown(message)}\n")


def complain(message: str) -> None:
    """Print an error on stderr."""
    _write(sys.stderr, f"error: {shown(message)}\n")


def note(line: str) -> None:
    """Print a line on stderr that is neither an error nor a warning."""
    _write(sys.stderr, f"{shown(line)}\n")


def flush() -> None:
    """Write out what anybody has printed."""
    for stream in (sys.stdout, sys.stderr):
        _write(stream, "")


def _write(stream: TextIO, text: str) -> None:
    """Write and flush.

    If the reader of a pipe is gone (`| head`), the rest of the output is dropped and the command
    goes on, to the exit code that it would have had. What stderr does not take is dropped too.

    Raises:
        InputError: stdout cannot be written, on a full disk for example.
    """
    try:
        stream.write(text)
        stream.flush()
    except OSError as error:
        _discard(stream)  # else flushing at exit fails again
        if stream is sys.stdout and not isinstance(error, BrokenPipeError):
            raise InputError(f"standard output cannot be written ({error.strerror})") from None


def _discard(stream: TextIO) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


class PrintableRecord(logging.LogRecord):
    """A record of any library's logger, whose message is printable line by line."""

    def getMessage(self) -> str:  # noqa: N802 (logging's name)
        """The message."""
        return "\n".join(printable(line) for line in super().getMessage().split("\n"))


class WarningLog(logging.Handler):
    """Shows our own log's messages as warnings."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one."""
        warn(record.getMessage())
