"""The data block of the page, which its script draws from."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from matformer_lab.report.layer_picture import viewbox
from matformer_lab.results.sweep_results import TITLES, SweepResults
from matformer_lab.statistics.panel import Panel
from matformer_lab.statistics.ranking import rank

_MOST_PAIRED = 250  # slices; with more, the page omits the pairwise table, which grows as n**2


def script_safe_json(data: Any) -> str:
    """JSON that is safe between script tags, whatever strings it holds."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def page_data(sweep: SweepResults) -> dict[str, Any]:
    """Everything that the page's script draws, as plain JSON values."""
    order = {scored.name: k for k, scored in enumerate(sweep.scored)}
    first = order[sweep.smallest] if sweep.smallest else 0
    second = order[sweep.whole] if sweep.whole else len(order) - 1
    return {
        "slices": [
            {
                "name": scored.name,
                "effective": scored.effective,
                "total": scored.total,
                "role": sweep.role(scored.name),
            }
            for scored in sweep.scored
        ],
        "panels": [_panel_data(sweep, panel, order) for panel in sweep.panels],
        "published_fits": sweep.published_fits,
        "viewbox": viewbox(sweep.parent),
        "compare": [first, second],
        "apart": [chart["points"] for chart in published_charts(sweep)],
    }


def _panel_data(sweep: SweepResults, panel: Panel, order: Mapping[str, int]) -> dict[str, Any]:
    by_name = {scored.name: scored for scored in sweep.scored}
    upper = np.triu_indices(len(panel.slices), 1)
    pairs = len(panel.slices) <= _MOST_PAIRED

    def triangle(table: Any) -> list[Any] | None:
        return None if table is None or not pairs else _numbers(np.asarray(table)[upper])

    return {
        **heading(sweep, panel),
        "title": sweep.title(panel.name),
        "n": panel.n,
        "metric": next((t.metric for t in sweep.tasks if t.name == panel.name), "mean score"),
        "percent": bool(((panel.values >= 0) & (panel.values <= 1)).all()),
        "paired": panel.name in sweep.study.panels,
        "slices": [order[name] for name in panel.slices],
        "value": [float(value) for value in panel.values],
        "low": _numbers(panel.intervals[:, 0]),
        "high": _numbers(panel.intervals[:, 1]),
        "published": [sweep.published.get(panel.name, {}).get(name) for name in panel.slices],
        "rank": {
            measure: _rank_data(
                panel, {name: getattr(by_name[name], measure) for name in by_name}, order
            )
            for measure in ("effective", "total")
        },
        "sign": panel.sign,
        "critical": panel.critical,
        "error": triangle(panel.errors),
        "wins": triangle(panel.wins),
        "losses": triangle(None if panel.wins is None else panel.wins.T),
        "p_holm": triangle(panel.p_holm),
    }


def _rank_data(
    panel: Panel, sizes: Mapping[str, float], order: Mapping[str, int]
) -> dict[str, Any]:
    ranking = rank(panel, sizes)
    return {
        "pareto": [bool(on) for on in ranking.pareto],
        "membership": _numbers(ranking.membership),
        "verdict": ranking.verdicts,
        "by": [None if name is None else order[name] for name in ranking.dominated_by],
    }


def _numbers(values: Any) -> list[float | int | None]:
    """Plain numbers: floats to 5 significant digits, None for what is not finite."""
    return [
        int(value)
        if float(value).is_integer()
        else float(f"{value:.5g}")
        if math.isfinite(value)
        else None
        for value in np.asarray(values, dtype=np.float64)
    ]


def heading(sweep: SweepResults, panel: Panel) -> dict[str, str]:
    """A panel's title in two parts: its short name, and few-shot count, metric and items."""
    title = sweep.title(panel.name)
    short = TITLES.get(panel.name, panel.name)
    meta = title.removeprefix(short).lstrip(", ")
    return {"short": short, "meta": f"{meta}, n\u00a0=\u00a0{panel.n:,}"}


def published_charts(sweep: SweepResults) -> list[dict[str, Any]]:
    """The charts of published scores that need axes of their own."""
    return [
        {
            "title": TITLES.get(task, task),
            "points": [{"name": name, "x": x, "y": y} for name, x, y in points],
            "description": "; ".join(f"{name}: {x} B, {100 * y:.1f} %" for name, x, y in points),
        }
        for task, points in sweep.published_apart.items()
    ]
