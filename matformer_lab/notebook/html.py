"""Plans and sweeps as HTML tables, and their registration with Jupyter.

`Plan` and `SweepResults` do not depend on notebooks: `register` tells IPython how to show them.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matformer_lab.results.sweep_results import SweepResults
    from matformer_lab.slicing.plan import Plan


def register(shell: Any) -> None:
    """Let a notebook show plans and sweep results as tables.

    Args:
        shell: A running IPython shell.
    """
    formatter = shell.display_formatter.formatters["text/html"]
    formatter.for_type_by_name("matformer_lab.slicing.plan", "Plan", plan_html)
    formatter.for_type_by_name("matformer_lab.results.sweep_results", "SweepResults", sweep_html)


def plan_html(plan: Plan) -> str:
    """A plan as HTML tables: its sizes, its layers, the runtimes."""
    from matformer_lab.slicing.tables import (
        LAYER_HEAD,
        RUNTIME_HEAD,
        layer_rows,
        runtime_rows,
        size_rows,
    )

    title = f"<b>{escape(plan.slice.name)}</b> of {escape(plan.parent.name)}"
    tables = [
        html_table(("", ""), size_rows(plan)),
        html_table(LAYER_HEAD, layer_rows(plan)),
        html_table(RUNTIME_HEAD, runtime_rows(plan)),
    ]
    side_by_side = "display:flex;flex-wrap:wrap;gap:1em 2em;align-items:flex-start"
    return f"<div>{title}<div style='{side_by_side}'>{''.join(tables)}</div></div>"


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A plain HTML table.

    Args:
        head: The column titles, which are escaped.
        rows: The cells of each row, one per column, which are escaped.
    """
    titles = "".join(f"<th style='text-align:left'>{escape(title)}</th>" for title in head)
    body = [
        "<tr>" + "".join(f"<td style='text-align:left'>{escape(c)}</td>" for c in row) + "</tr>"
        for row in rows
    ]
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def sweep_html(sweep: SweepResults) -> str:
    """A sweep's results as an HTML table of slices by tasks: score, interval and verdict."""
    cells = {
        (row.slice, row.task): f"{row.score:.1f} [{row.low:.1f}, {row.high:.1f}] {row.verdict}"
        for row in sweep.scores().itertuples()
    }
    head = ["slice", "effective", *(sweep.title(panel.name) for panel in sweep.panels)]
    rows = [
        [
            slice_.name,
            f"{slice_.effective:,}",
            *(cells.get((slice_.name, panel.name), "") for panel in sweep.panels),
        ]
        for slice_ in sweep.scored
    ]
    return html_table(head, rows)
