"""The rows of the page's table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from matformer_lab.report.layer_picture import describe_layers, layer_picture
from matformer_lab.results.sweep_results import TITLES, SweepResults
from matformer_lab.results.tables.description import ScoredSlice
from matformer_lab.statistics.panel import Panel


def table_columns(sweep: SweepResults, published: Sequence[str]) -> list[dict[str, Any]]:
    """The columns of the page's table; `published` are the tasks with published scores."""

    def column(title: str, numeric: bool = True, sort: str = "none") -> dict[str, Any]:
        return {"title": title, "numeric": numeric, "sort": sort}

    return [
        column("Slice", numeric=False),
        column("Effective", sort="ascending"),
        *(column(TITLES.get(panel.name, panel.name)) for panel in sweep.panels),
        column("Verdict", numeric=False),
        *(column(f"{TITLES.get(key, key)}, published") for key in published),
        column("Total"),
        column("Stored"),
    ]


def table_row(
    sweep: SweepResults, index: int, scored: ScoredSlice, published: Sequence[str]
) -> dict[str, Any]:
    """A slice's row of the page's table; `index` numbers its layer picture."""
    return {
        "name": scored.name,
        "role": sweep.role(scored.name),
        "effective": scored.effective,
        "effective_text": short_number(scored.effective),
        "total": scored.total,
        "total_text": short_number(scored.total),
        "bytes": scored.nbytes,
        "bytes_text": short_number(scored.nbytes, ("kB", "MB", "GB")),
        "scores": [_score(panel, scored.name) for panel in sweep.panels],
        "published": [_published_score(sweep.published[key].get(scored.name)) for key in published],
        "kept": len(scored.slice.widths),
        "description": describe_layers(sweep.parent, scored),
        "picture_symbol": Markup(
            f'<g id="picture-{index}">{layer_picture(sweep.parent, scored)}</g>'
        ),
    }


def _score(panel: Panel, name: str) -> dict[str, Any] | None:
    if name not in panel.slices:
        return None
    k = panel.index(name)
    percent = bool(((panel.values >= 0) & (panel.values <= 1)).all())
    low, high = panel.intervals[k]

    def text(value: float) -> str:
        return f"{100 * value:.1f}" if percent else f"{value:.4g}"

    return {
        "value": repr(float(panel.values[k])),
        "text": text(panel.values[k]),
        "interval": f"[{text(low)}, {text(high)}]" if math.isfinite(low) else "",
    }


def _published_score(value: float | None) -> dict[str, str]:
    if value is None:
        return {"value": "", "text": "–"}
    return {"value": repr(value), "text": f"{100 * value:.1f}"}


def short_number(value: float, units: tuple[str, str, str] = ("K", "M", "B")) -> str:
    """Three significant digits and a unit: 1.91 B."""
    rounded = float(f"{value:.3g}")
    for scale, unit in ((1e9, units[2]), (1e6, units[1]), (1e3, units[0])):
        if rounded >= scale:
            return f"{rounded / scale:#.3g}".rstrip(".") + f" {unit}"
    return f"{value:g}"
