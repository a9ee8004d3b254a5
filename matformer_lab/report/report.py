"""`report.html`: the frontier as one self-contained page, from a sweep folder alone.

Charts are drawn by Observable Plot (on D3), inlined from `page/vendor`. Of the libraries looked at
it is the one whose SVG takes its colours from CSS, so that dark mode and print need no second
drawing, and whose marks are plain elements that keyboard and screen readers can be given; 0.5 MB
inlined against 0.9 MB for Vega-Lite, 1.8 MB for Bokeh and 4.8 MB for plotly.js. Table and layer
pictures are plain HTML and SVG written here; the page's script adds to them.

Names of slices, tasks and models come from users: Jinja escapes them in the markup, `_json` in the
data block, and the script writes text only. A content security policy allows exactly the page's own
scripts, by hash, and no request of any kind.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from matformer_lab import __version__
from matformer_lab.common.atomic import write_atomic
from matformer_lab.report.figure import save_figure
from matformer_lab.report.layer_picture import describe_layers, layer_picture, viewbox
from matformer_lab.results.finished import TITLES, Finished, Member
from matformer_lab.results.read_sweep import read_finished
from matformer_lab.statistics.frontier import Panel, rank

_PAGE = Path(__file__).parent / "page"
_DTYPES = (("fp32", 32), ("bf16 / fp16", 16), ("int8", 8), ("int4", 4))
_MOST_PAIRED = 250  # slices; beyond, the page leaves out the pairwise table, which grows as n**2


def write_report(folder: Path) -> Path:
    """Write `frontier.png`, `frontier.svg` and `report.html` into a sweep folder, from what it
    holds.

    Returns the page's path. Raises InputError when the folder is no sweep or does not hold
    together.
    """
    finished = read_finished(folder)
    save_figure(finished, finished.folder)
    page = finished.folder / "report.html"
    write_atomic(page, render(finished).encode())
    return page


def render(finished: Finished) -> str:
    """The page as HTML text."""
    environment = Environment(
        loader=FileSystemLoader(_PAGE), autoescape=True, undefined=StrictUndefined
    )
    scripts = [
        (_PAGE / name).read_text(encoding="utf-8")
        for name in ("vendor/d3.min.js", "vendor/plot.umd.min.js", "report.js")
    ]
    study = finished.study
    published = finished.published_tasks
    recipe = (finished.folder / "recipe.yaml").read_text(encoding="utf-8")
    items = sum(task.n for task in finished.tasks)
    return environment.get_template("report.html.j2").render(
        title=f"{finished.parent.name}: size/quality frontier",
        subtitle=_subtitle(finished, items),
        policy=_policy(scripts),
        css=Markup((_PAGE / "report.css").read_text(encoding="utf-8")),
        scripts=[Markup(script) for script in scripts],
        data=Markup(_json(_data(finished))),
        parent=finished.parent,
        notes=_notes(finished),
        shared=finished.parent.first_kv_shared_layer < finished.parent.num_hidden_layers,
        whole=finished.whole,
        smallest=finished.role(finished.smallest) if finished.smallest else None,
        has_published=bool(published),
        overlaid=bool(published) and finished.published_fits,
        dtypes=_DTYPES,
        stored_dtype=_stored_dtype(finished),
        panels=[_heading(finished, panel) for panel in finished.panels],
        columns=_columns(finished, published),
        apart=_apart(finished),
        rows=[_row(finished, k, member, published) for k, member in enumerate(finished.members)],
        viewbox=viewbox(finished.parent),
        commands=_commands(finished),
        recipe=recipe,
        provenance=list(_flat(finished.provenance)),
        level=f"{100 * study.level:g} %",
        replicates=f"{study.replicates:,}",
        comparisons=f"{study.comparisons:,}",
        tests=f"{study.tests:,}",
        critical=f"{study.critical:.2f}",
        version=__version__,
    )


# --- the data block ---


def _json(data: Any) -> str:
    """JSON that is safe between script tags, whatever the strings in it say."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _data(finished: Finished) -> dict[str, Any]:
    order = {member.name: k for k, member in enumerate(finished.members)}
    first = order[finished.smallest] if finished.smallest else 0
    second = order[finished.whole] if finished.whole else len(order) - 1
    return {
        "slices": [
            {
                "name": member.name,
                "effective": member.effective,
                "total": member.total,
                "role": finished.role(member.name),
            }
            for member in finished.members
        ],
        "panels": [_panel_data(finished, panel, order) for panel in finished.panels],
        "published_fits": finished.published_fits,
        "viewbox": viewbox(finished.parent),
        "compare": [first, second],
        "apart": [chart["points"] for chart in _apart(finished)],
    }


def _panel_data(finished: Finished, panel: Panel, order: Mapping[str, int]) -> dict[str, Any]:
    members = {member.name: member for member in finished.members}
    upper = np.triu_indices(len(panel.slices), 1)
    pairs = len(panel.slices) <= _MOST_PAIRED

    def triangle(table: Any) -> list[Any] | None:
        return None if table is None or not pairs else _numbers(np.asarray(table)[upper])

    return {
        **_heading(finished, panel),
        "title": finished.title(panel.name),
        "n": panel.n,
        "metric": next((t.metric for t in finished.tasks if t.name == panel.name), "mean score"),
        "percent": bool(((panel.values >= 0) & (panel.values <= 1)).all()),
        "paired": panel.name in finished.study.panels,
        "slices": [order[name] for name in panel.slices],
        "value": [float(value) for value in panel.values],
        "low": _numbers(panel.intervals[:, 0]),
        "high": _numbers(panel.intervals[:, 1]),
        "published": [members[name].published_score(panel.name) for name in panel.slices],
        "rank": {
            measure: _rank_data(
                panel, {name: getattr(members[name], measure) for name in members}, order
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
    """Plain numbers, floats to 5 significant digits, what is not finite as null."""
    return [
        int(value)
        if float(value).is_integer()
        else float(f"{value:.5g}")
        if math.isfinite(value)
        else None
        for value in np.asarray(values, dtype=np.float64)
    ]


# --- the markup ---


def _heading(finished: Finished, panel: Panel) -> dict[str, str]:
    title = finished.title(panel.name)
    short = TITLES.get(panel.name, panel.name)
    meta = title.removeprefix(short).lstrip(", ")
    return {"short": short, "meta": f"{meta}, n\u00a0=\u00a0{panel.n:,}"}


def _subtitle(finished: Finished, items: int) -> str:
    parts = [
        _count(len(finished.members), "slice"),
        _count(len(finished.tasks), "task"),
        f"{items:,} items",
    ]
    if dtype := finished.recipe.get("dtype"):
        parts.append(str(dtype))
    if finished.parent.revision:
        parts.append(f"revision {finished.parent.revision[:12]}")
    return " · ".join(parts)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _notes(finished: Finished) -> list[str]:
    notes = []
    if limit := finished.recipe.get("limit"):
        notes.append(
            f"Scored with limit {limit}: part of each task's items, so the intervals are wide and "
            "the scores are not comparable to full runs."
        )
    everyone = {member.name for member in finished.members}
    for task in finished.tasks:
        if missing := everyone - set(task.slices):
            notes.append(f"{task.name} is not scored yet for {', '.join(sorted(missing))}.")
        if task.outcomes is None:
            notes.append(
                f"{task.name}: {task.metric} has no per-item outcomes; its comparisons are not "
                "paired, and it is not part of the average."
            )
    return notes


def _stored_dtype(finished: Finished) -> str:
    member = finished.members[0]
    bits = 8 * member.bytes / max(1, member.total)
    return min(_DTYPES, key=lambda entry: abs(entry[1] - bits))[0]


def _apart(finished: Finished) -> list[dict[str, Any]]:
    return [
        {
            "title": TITLES.get(task, task),
            "points": [{"name": name, "x": x, "y": y} for name, x, y in points],
            "description": "; ".join(f"{name}: {x} B, {100 * y:.1f} %" for name, x, y in points),
        }
        for task, points in finished.published_apart.items()
    ]


def _columns(finished: Finished, published: Sequence[str]) -> list[dict[str, Any]]:
    def column(title: str, numeric: bool = True, sort: str = "none") -> dict[str, Any]:
        return {"title": title, "numeric": numeric, "sort": sort}

    return [
        column("Slice", numeric=False),
        column("Effective", sort="ascending"),
        *(column(TITLES.get(panel.name, panel.name)) for panel in finished.panels),
        column("Verdict", numeric=False),
        *(column(f"{TITLES.get(key, key)}, published") for key in published),
        column("Total"),
        column("Stored"),
    ]


def _row(
    finished: Finished, index: int, member: Member, published: Sequence[str]
) -> dict[str, Any]:
    return {
        "name": member.name,
        "role": finished.role(member.name),
        "effective": member.effective,
        "effective_text": short_number(member.effective),
        "total": member.total,
        "total_text": short_number(member.total),
        "bytes": member.bytes,
        "bytes_text": short_number(member.bytes, ("kB", "MB", "GB")),
        "scores": [_score(panel, member.name) for panel in finished.panels],
        "published": [_published_score(member, key) for key in published],
        "kept": len(member.slice.widths),
        "description": describe_layers(finished.parent, member),
        "picture_symbol": Markup(
            f'<g id="picture-{index}">{layer_picture(finished.parent, member)}</g>'
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


def _published_score(member: Member, key: str) -> dict[str, str]:
    value = member.published_score(key)
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


# --- how it was made ---


def _commands(finished: Finished) -> str:
    versions = {key.rsplit(".", 1)[-1]: value for key, value in _flat(finished.provenance)}
    pins = [
        f"{package}=={versions[key].partition('+')[0]}"  # an index has no local versions (+cpu)
        for package, key in (
            ("matformer-lab", "matformer_lab"),
            ("torch", "torch"),
            ("transformers", "transformers"),
            ("lm-eval", "lm_eval"),
        )
        if key in versions
    ]
    out = shlex.quote(finished.folder.resolve().name)
    lines = [f"pip install {' '.join(map(shlex.quote, pins))}"] if pins else []
    lines += [f"matformer-lab sweep recipe.yaml --out {out}", f"matformer-lab report {out}"]
    return "\n".join(lines)


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, entry in value.items():
        if isinstance(entry, Mapping):
            yield from _flat(entry, f"{prefix}{key}.")
        elif isinstance(entry, list | tuple):
            yield f"{prefix}{key}", ", ".join(str(part) for part in entry)
        elif entry is not None:
            yield f"{prefix}{key}", str(entry)


def _policy(scripts: list[str]) -> str:
    """No request of any kind; only these scripts run."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    )
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
