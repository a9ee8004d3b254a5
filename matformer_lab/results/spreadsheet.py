"""CSV that a spreadsheet shows as it is: a cell of text is never taken for a formula."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pandas as pd

_STARTS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""How formulas start, in one spreadsheet or another."""


def spreadsheet_csv(frame: pd.DataFrame) -> str:
    """A table as CSV, whose texts are quoted and do not start like a formula.

    An apostrophe goes before those that do, as the spreadsheets themselves mark text. The quotes
    keep `a;=1` one cell where the list separator is a semicolon.
    """
    return frame.map(as_text).to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC)


def as_text(cell: Any) -> Any:
    """A cell as `spreadsheet_csv` writes it."""
    if isinstance(cell, str) and cell.lstrip(" ").startswith(_STARTS):
        return f"'{cell}"
    return cell
