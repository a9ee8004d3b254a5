"""The report of a finished sweep, written into its folder."""

from __future__ import annotations

from pathlib import Path

from matformer_lab.common.paths import StrPath
from matformer_lab.report.figure import figure_files
from matformer_lab.report.page import render
from matformer_lab.results.files import REPORT_FILES, REPORT_HTML
from matformer_lab.results.own_files import disk_errors, own_files
from matformer_lab.results.read import read_sweep


def write_report(folder: StrPath) -> Path:
    """Write `frontier.png`, `frontier.svg` and `report.html` into a finished sweep's folder.

    Args:
        folder: What `run_sweep` wrote.

    Returns:
        The path of `report.html`.

    Raises:
        InputError: When it is not the folder of a finished sweep, or its files contradict each
            other; or when the report would replace a file that is not the tool's, or was edited.

    Examples:
        >>> import matformer_lab as ml
        >>> ml.write_report("runs/demo").name
        'report.html'
    """
    sweep = read_sweep(folder)
    own = own_files(sweep.folder, is_sweep=True)
    for name in REPORT_FILES:
        own.check_place(name)
    with disk_errors(sweep.folder), own.new_files() as new:
        for name, content in figure_files(sweep).items():
            new.add(name, content)
        new.add(REPORT_HTML, render(sweep).encode())
        new.publish()
    return sweep.folder / REPORT_HTML
