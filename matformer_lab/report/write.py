"""Picture and page of a finished sweep, written into its folder."""

from __future__ import annotations

from pathlib import Path

from matformer_lab.common.atomic import write_atomic
from matformer_lab.report.figure import save_figure
from matformer_lab.report.page import render
from matformer_lab.results.read import read_sweep


def write_report(folder: Path) -> Path:
    """Write `frontier.png`, `frontier.svg` and `report.html` into a sweep folder, from what it
    holds.

    Returns the page's path. Raises InputError when the folder is no sweep or does not hold
    together.
    """
    sweep = read_sweep(folder)
    save_figure(sweep, sweep.folder)
    page = sweep.folder / "report.html"
    write_atomic(page, render(sweep).encode())
    return page
