"""CSV that a spreadsheet shows as it is: a cell of text is never taken for a formula."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pandas as pd

_STARTS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""How formulas start, in one spreadsheet or another."""

_ENDS: Final = frozenset(";\t\r")
"""What ends a cell in one program or another, besides what pandas quotes by itself."""


def spreadsheet_csv(frame: pd.DataFrame) -> str:
    """A table as CSV, none of whose texts starts like a formula.

    An apostrophe goes before those that would, as the spreadsheets themselves mark text. Where a
    text has what some program takes for the end of a cell (a semicolon, a tab, a carriage return),
    texts are quoted: `a;=1` stays one cell.
    """
    split = frame.map(lambda cell: isinstance(cell, str) and not _ENDS.isdisjoint(cell))
    safe = frame.map(as_text)
    if split.to_numpy().any():
        return safe.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC)
    return safe.to_csv(index=False)


def as_text(cell: Any) -> Any:
    """A cell as `spreadsheet_csv` writes it."""
    if isinstance(cell, str) and cell.lstrip(" ").startswith(_STARTS):
        return f"'{cell}"
    return cell
