"""`report.html`: the frontier as one self-contained page, from a sweep folder alone.

Charts are drawn by Observable Plot (on D3), inlined from `assets/vendor`. Of the libraries
compared, it is the one whose SVG takes its colours from CSS, so that dark mode and print need no
second drawing, and whose marks are plain elements that can be made accessible to keyboards and
screen readers. Inlined it takes 0.5 MB, against 0.9 MB for Vega-Lite, 1.8 MB for Bokeh and 4.8 MB
for plotly.js. The table and the layer pictures are plain HTML and SVG written here; the page's
script adds to them.

Names of slices, tasks and models come from users: Jinja escapes them in the markup,
`script_safe_json` in the data block, and the script writes text only. A content security policy
allows exactly the page's own scripts, by hash, and no requests at all.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from matformer_lab.common.version import __version__
from matformer_lab.report.layer_picture import viewbox
from matformer_lab.report.page_data import heading, page_data, published_charts, script_safe_json
from matformer_lab.report.page_rows import table_columns, table_row
from matformer_lab.report.provenance import commands, flattened
from matformer_lab.results.files import RECIPE_YAML
from matformer_lab.results.sweep_results import SweepResults

_ASSETS = Path(__file__).parent / "assets"
_DTYPES = (("fp32", 32), ("bf16 / fp16", 16), ("int8", 8), ("int4", 4))


def style_sheet() -> str:
    """The pages' CSS."""
    return (_ASSETS / "report.css").read_text(encoding="utf-8")


def render(sweep: SweepResults) -> str:
    """The page as HTML text."""
    environment = Environment(
        loader=FileSystemLoader(_ASSETS), autoescape=True, undefined=StrictUndefined
    )
    scripts = [
        (_ASSETS / name).read_text(encoding="utf-8")
        for name in ("vendor/d3.min.js", "vendor/plot.umd.min.js", "report.js")
    ]
    study = sweep.study
    published = sweep.published_tasks
    recipe = (sweep.folder / RECIPE_YAML).read_text(encoding="utf-8", errors="replace")
    items = sum(task.n for task in sweep.tasks)
    return environment.get_template("report.html.j2").render(
        title=f"{sweep.parent.name}: size/quality frontier",
        subtitle=_subtitle(sweep, items),
        policy=_policy(scripts),
        css=Markup(style_sheet()),
        scripts=[Markup(script) for script in scripts],
        data=Markup(script_safe_json(page_data(sweep))),
        parent=sweep.parent,
        notes=_notes(sweep),
        shared=sweep.parent.first_kv_shared_layer < sweep.parent.num_hidden_layers,
        whole=sweep.whole,
        smallest=sweep.role(sweep.smallest) if sweep.smallest else None,
        has_published=bool(published),
        overlaid=bool(published) and sweep.published_fits,
        dtypes=_DTYPES,
        stored_dtype=_stored_dtype(sweep),
        panels=[heading(sweep, panel) for panel in sweep.panels],
        columns=table_columns(sweep, published),
        apart=published_charts(sweep),
        rows=[table_row(sweep, k, scored, published) for k, scored in enumerate(sweep.scored)],
        viewbox=viewbox(sweep.parent),
        commands=commands(sweep),
        recipe=recipe,
        provenance=list(flattened(sweep.provenance)),
        level=f"{100 * study.level:g} %",
        replicates=f"{study.replicates:,}",
        comparisons=f"{study.comparisons:,}",
        tests=f"{study.tests:,}",
        critical=f"{study.critical:.2f}",
        version=__version__,
    )


def _subtitle(sweep: SweepResults, items: int) -> str:
    parts = [
        _count(len(sweep.scored), "slice"),
        _count(len(sweep.tasks), "task"),
        f"{items:,} items",
    ]
    if dtype := sweep.recipe.get("dtype"):
        parts.append(str(dtype))
    if sweep.parent.revision:
        parts.append(f"revision {sweep.parent.revision[:12]}")
    return " · ".join(parts)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _notes(sweep: SweepResults) -> list[str]:
    notes = []
    if limit := sweep.recipe.get("limit"):
        notes.append(
            f"Scored with limit {limit}: part of each task's items, so the intervals are wide and "
            "the scores are not comparable to full runs."
        )
    if sweep.recipe.get("split"):
        notes.append(
            "Scored on the items that a search kept for its proof; it chose its slices by others."
        )
    everyone = {scored.name for scored in sweep.scored}
    for task in sweep.tasks:
        if missing := everyone - set(task.slices):
            notes.append(f"{task.name} is not scored yet for {', '.join(sorted(missing))}.")
        if task.outcomes is None:
            notes.append(
                f"{task.name}: {task.metric} has no per-item outcomes; its comparisons are not "
                "paired, and it is not part of the average."
            )
    return notes + sweep.mixed_modes


def _stored_dtype(sweep: SweepResults) -> str:
    """The entry of the page's dtype menu that is nearest to how the parent is stored."""
    first = sweep.scored[0]
    bits = 8 * first.nbytes / max(1, first.total)
    return min(_DTYPES, key=lambda entry: abs(entry[1] - bits))[0]


def _policy(scripts: list[str]) -> str:
    """A content security policy that lets exactly these scripts run, and no request be made."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    )
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
