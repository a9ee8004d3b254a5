"""`search.html`: what a search found and how, in the language of the report. No script in it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from matformer_lab.common.version import __version__
from matformer_lab.report.layer_picture import describe_layers, layer_picture, viewbox
from matformer_lab.report.page import style_sheet
from matformer_lab.search.charts import Cell, Mark, heat_map, scatter
from matformer_lab.search.prepared import PARENT_NAME
from matformer_lab.search.result import Proof, SearchResult

_ASSETS = Path(__file__).parent / "assets"
_LABELS = ("published", "random", "parent")


def render(result: SearchResult) -> str:
    """The page as HTML text."""
    environment = Environment(
        loader=FileSystemLoader(_ASSETS), autoescape=True, undefined=StrictUndefined
    )
    record, panel = result.record, result.panel
    css = style_sheet() + (_ASSETS / "search.css").read_text(encoding="utf-8")
    correlation = record.rank_correlation
    return environment.get_template("search.html.j2").render(
        title=f"{record.parent_name}: found slices",
        name=record.parent_name,
        subtitle=f"{len(record.budgets)} budgets · {', '.join(record.tasks)} · "
        f"{record.cost.evaluations} evaluations",
        notes=_notes(result),
        css=Markup(css),
        average=f"average of {len(record.tasks)} tasks" if len(record.tasks) > 1 else "",
        proof_items=f"{panel.n:,}",
        rows=_rows(result),
        frontier=_frontier(result),
        pictures=_pictures(result),
        viewbox=viewbox(result.proof.parent),
        maps=_maps(result),
        predictions=_predictions(result),
        correlation=None if correlation is None else f"{correlation:.2f}",
        candidates=len(record.candidates),
        cost=_cost(result),
        commands=_commands(result),
        settings=yaml.safe_dump(record.settings["search"], sort_keys=False, allow_unicode=True),
        version=__version__,
    )


def _notes(result: SearchResult) -> list[str]:
    return [
        f"{budget.name}: nothing larger was better than {budget.same_as}, so both are one slice."
        for budget in result.record.budgets
        if budget.same_as
    ]


def _rows(result: SearchResult) -> list[dict[str, Any]]:
    panel, proofs = result.panel, list(result.proofs())
    rows = []
    for budget in result.record.budgets:
        name = budget.same_as or budget.name
        place = panel.index(name)
        low, high = 100 * panel.intervals[place]
        own = [proof for proof in proofs if proof.budget == budget.name]
        rows.append(
            {
                "name": name,
                "budget": ", ".join(f"{each.kind} {each.written}" for each in budget.limits),
                "effective": f"{budget.effective:,}",
                "score": f"{100 * panel.values[place]:.1f}",
                "interval": f"[{low:.1f}, {high:.1f}]",
                "against": [_against([p for p in own if p.kind == kind]) for kind in _LABELS],
            }
        )
    return rows


def _against(proofs: Sequence[Proof]) -> dict[str, Any]:
    """The comparison with the best of several slices."""
    if not proofs:
        return {"text": "–", "interval": "", "sure": False}
    best = max(proofs, key=lambda proof: proof.other_score)
    return {
        "text": f"{best.difference:+.1f}  {best.other}",
        "interval": f"[{best.low:+.1f}, {best.high:+.1f}]",
        "sure": bool(best.low > 0 or best.high < 0),
    }


def _frontier(result: SearchResult) -> Markup:
    panel, sizes = result.panel, result.proof.effective
    kinds = dict.fromkeys((n for budget in result.record.budgets for n in budget.random), "random")
    kinds |= dict.fromkeys(
        (n for budget in result.record.budgets for n in budget.published), "published"
    )
    kinds |= {PARENT_NAME: "parent"}
    kinds |= {budget.name: "found" for budget in result.record.budgets if not budget.same_as}
    marks = []
    for name, kind in kinds.items():
        place = panel.index(name)
        low, high = 100 * panel.intervals[place]
        score = 100 * float(panel.values[place])
        title = (
            f"{name}: {sizes[name]:,.0f} effective parameters, {score:.1f} [{low:.1f}, {high:.1f}]"
        )
        label = "" if kind == "random" else name
        marks.append(Mark(sizes[name], score, kind, title, label, low, high))
    return scatter(marks, "effective parameters", "score, %")


def _pictures(result: SearchResult) -> list[dict[str, Any]]:
    scored = {each.name: each for each in result.proof.scored}
    parent = result.proof.parent
    return [
        {
            "name": budget.name,
            "svg": Markup(layer_picture(parent, scored[budget.name])),
            "description": describe_layers(parent, scored[budget.name]),
            "caption": f"{budget.effective:,} effective",
        }
        for budget in result.record.budgets
        if not budget.same_as
    ]


def _maps(result: SearchResult) -> list[dict[str, Any]]:
    record = result.record
    titles = {
        "middle": "One change around every layer at its middle width",
        "full": "One change around the whole parent",
    }
    maps = []
    for base, title in titles.items():
        rows = [row for row in record.scan if row.base == base]
        if not rows:
            continue
        widths = sorted({row.width for row in rows})
        cells = [
            Cell(
                row.layer,
                widths.index(row.width),
                row.difference,
                f"layer {row.layer}, {'skipped' if not row.width else f'width {row.width:,}'}: "
                f"{row.difference:+.4f} ± {row.stderr:.4f}",
            )
            for row in rows
        ]
        names = ["skipped" if not width else f"{width:,}" for width in widths]
        strongest = max(rows, key=lambda row: abs(row.difference)).difference
        maps.append(
            {
                "title": title,
                "svg": heat_map(cells, names, len(record.choices)),
                "strongest": f"{strongest:+.3f}",
            }
        )
    return maps


def _predictions(result: SearchResult) -> Markup | None:
    candidates = result.record.candidates
    if not candidates:
        return None
    marks = [
        Mark(
            each.predicted,
            each.measured,
            "found",
            f"{each.budget}, round {each.round}: predicted {each.predicted:.4f}, measured "
            f"{each.measured:.4f}",
        )
        for each in candidates
    ]
    return scatter(marks, "predicted objective", "measured objective", diagonal=True)


def _cost(result: SearchResult) -> list[tuple[str, str]]:
    cost = result.record.cost
    saved = 1 - cost.layer_forwards / cost.unshared if cost.unshared else 0.0
    return [
        ("slice evaluations", f"{cost.evaluations}"),
        ("layers computed", f"{cost.layer_forwards:,} ({100 * saved:.0f} % shared)"),
        ("search", f"{cost.search_seconds:,.0f} s in the last call"),
        ("proof", f"{cost.proof_seconds:,.0f} s in the last call"),
    ]


def _commands(result: SearchResult) -> str:
    first = result.record.budgets[0].name
    file = shlex.quote(f"slices.yaml#{first}")
    parent = shlex.quote(result.record.parent)
    return "\n".join(
        (
            f"matformer-lab plan {parent} --slice {file}",
            f"matformer-lab slice {parent} --slice {file} --out {shlex.quote(first)}",
        )
    )
