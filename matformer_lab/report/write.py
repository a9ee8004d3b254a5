"""The report of a finished sweep, written into its folder."""

from __future__ import annotations

from pathlib import Path

from matformer_lab.common.own_files import check_replaceable, write_own
from matformer_lab.common.paths import StrPath
from matformer_lab.report.figure import save_figure
from matformer_lab.report.page import render
from matformer_lab.results.files import REPORT_FILES, REPORT_HTML, REPORT_KIND
from matformer_lab.results.read import read_sweep


def write_report(folder: StrPath) -> Path:
    """Write `frontier.png`, `frontier.svg` and `report.html` into a finished sweep's folder.

    Args:
        folder: What `run_sweep` wrote.

    Returns:
        The path of `report.html`.

    Raises:
        InputError: When it is not the folder of a finished sweep, or its files contradict each
            other, or one of the three files is not ours to replace.

    Examples:
        >>> import matformer_lab as ml
        >>> ml.write_report("runs/demo").name  # doctest: +SKIP
        'report.html'
    """
    sweep = read_sweep(folder)
    for name in REPORT_FILES:
        check_replaceable(sweep.folder / name, REPORT_KIND)
    save_figure(sweep, sweep.folder)
    page = sweep.folder / REPORT_HTML
    write_own(page, f"{render(sweep)}\n".encode(), REPORT_KIND)
    return page
