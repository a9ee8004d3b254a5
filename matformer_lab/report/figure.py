"""The frontier as a static picture for papers and READMEs: `frontier.png` and `frontier.svg`.

One panel a task and one for the average. Colour says measured or published, fill says the verdict,
shape says the role (square: the parent, triangle: the nested smallest). `report.html` uses the same
language.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from matformer_lab.common.atomic import write_atomic
from matformer_lab.report.label_placement import gap_to, place_labels
from matformer_lab.results.finished import TITLES, Finished
from matformer_lab.statistics.frontier import Panel, Ranking, rank
from matformer_lab.statistics.paired import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MEASURED = "#0072B2"  # Okabe & Ito's blue and vermilion: told apart with any colour vision
PUBLISHED = "#D55E00"
MUTED = "#8A8F98"
INK = "#1B1F24"
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E8EB",
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "svg.hashsalt": "matformer-lab",  # the same picture gives the same bytes
}

_CROWD = 40  # more slices than this, and dominated ones go without a label
_LEAST = 4


def save_figure(finished: Finished, folder: Path) -> tuple[Path, Path]:
    """Write `frontier.png` (200 dpi) and `frontier.svg` into `folder`; returns their paths."""
    import matplotlib as mpl

    png, svg = folder / "frontier.png", folder / "frontier.svg"
    with mpl.rc_context(_STYLE):
        figure = draw(finished)
        for path, metadata in ((png, {"Software": None}), (svg, {"Date": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=path.suffix[1:], dpi=200, metadata=metadata)
            write_atomic(path, buffer.getvalue())
    return png, svg


def draw(finished: Finished) -> Figure:
    """The picture as a matplotlib figure."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    panels = finished.panels
    apart = finished.published_apart
    count = len(panels) + len(apart)
    columns = 1 if count == 1 else 2 if count <= 4 else 3
    rows = -(-count // columns)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.6 * columns, 3.4 * rows + 1.1))
        grid = figure.subplots(rows, columns, squeeze=False)
        height = figure.get_figheight()
        figure.set_layout_engine("constrained", rect=(0, 0.6 / height, 1, 1 - 0.95 / height))
        axes = list(grid.flat)
        for spare in axes[count:]:
            spare.set_visible(False)
        labels = [
            _draw_panel(axis, finished, panel) for axis, panel in zip(axes, panels, strict=False)
        ]
        labels += [
            _draw_published(axis, task, published)
            for axis, (task, published) in zip(axes[len(panels) :], apart.items(), strict=False)
        ]
        figure.suptitle(
            f"Slices of {_plain(finished.parent.name)}",
            x=0.01,
            y=1 - 0.1 / height,
            va="top",
            ha="left",
            fontweight="bold",
            color=INK,
            fontsize=10,
        )
        _legend(figure, finished)
        figure.draw_without_rendering()  # settles the layout, so that labels can be measured
        figure.set_layout_engine("none")
        for axis, (points, soft) in zip(axes, labels, strict=False):
            _label(axis, points, soft)
    return figure


# --- panels ---


_Point = tuple[float, float, str, str, int]  # x, y, text, colour, priority (small: first)


def _draw_panel(
    axis: Axes, finished: Finished, panel: Panel
) -> tuple[list[_Point], list[tuple[Floats, Floats]]]:
    standing = rank(panel, finished.effective)
    unit, suffix = size_unit(finished.effective.values())
    x = np.array([finished.effective[name] for name in panel.slices]) / unit
    y, low, high = 100 * panel.values, 100 * panel.intervals[:, 0], 100 * panel.intervals[:, 1]
    on = np.flatnonzero(standing.pareto)
    on = on[np.argsort(x[on])]
    axis.plot(x[on], y[on], color=MEASURED, lw=1.2, alpha=0.8, zorder=2, gid="pareto")
    points: list[_Point] = []
    for i, name in enumerate(panel.slices):
        verdict = standing.verdicts[i]
        colour = MUTED if verdict == "dominated" else MEASURED
        if np.isfinite(low[i]):
            axis.vlines(x[i], low[i], high[i], color=colour, lw=1.0, alpha=0.45, zorder=1.8)
        marker = "s" if name == finished.whole else "^" if name == finished.smallest else "o"
        axis.plot(
            x[i],
            y[i],
            marker=marker,
            ms=3.6 if verdict == "dominated" else 5.6 if marker != "o" else 5,
            mfc=colour if verdict != "not separable" else "white",
            mec=colour,
            mew=1.1,
            ls="none",
            zorder=4,
            gid=f"measured: {name}",
        )
        points.append((x[i], y[i], *_label_of(finished, panel, standing, i, colour)))
    soft = [(np.array([x[i], x[i]]), np.array([low[i], high[i]])) for i in range(len(x))]
    soft += [(x[on], y[on])]
    if finished.published_fits:
        for member in finished.members:
            score = member.published_score(panel.name)
            if score is not None:
                at = member.effective / unit
                _diamond(axis, at, 100 * score)
                soft += [(np.full(9, at), np.full(9, 100 * score))]  # weighs as a long line
    axis.set_title(
        f"{_plain(finished.title(panel.name))}  (n = {panel.n:,})", loc="left", fontsize=8.5
    )
    axis.set_xlabel(f"effective parameters{suffix}")
    axis.set_ylabel("score, %")
    axis.margins(0.09, 0.12)
    return points, soft


def _label_of(
    finished: Finished, panel: Panel, standing: Ranking, i: int, colour: str
) -> tuple[str, str, int]:
    name = panel.slices[i]
    if role := finished.role(name):
        return f"{name} ({role.split()[0]})", INK, 0 if role == "parent" else 1
    if standing.verdicts[i] == "dominated":
        return name, "#5E646D", _LEAST
    return name, colour, 2 if standing.pareto[i] else 3


def _draw_published(
    axis: Axes, task: str, published: Sequence[tuple[str, float, float]]
) -> tuple[list[_Point], list[tuple[Floats, Floats]]]:
    points: list[_Point] = []
    for name, x, score in published:
        _diamond(axis, x, 100 * score)
        points.append((x, 100 * score, name, PUBLISHED, 3))
    axis.set_title(
        f"{TITLES.get(task, task)} as published for E4B's slices (not measured here)",
        loc="left",
        fontsize=8.5,
        color=PUBLISHED,
    )
    axis.set_xlabel("effective parameters as published, billions")
    axis.set_ylabel("score, %")
    axis.margins(0.09, 0.12)
    return points, []


def _diamond(axis: Axes, x: float, y: float) -> None:
    axis.plot(
        x,
        y,
        marker="D",
        ms=4.2,
        mfc="none",
        mec=PUBLISHED,
        mew=0.9,
        ls="none",
        zorder=3,
        gid="published",
    )


def _legend(figure: Figure, finished: Finished) -> None:
    from matplotlib.lines import Line2D

    def entry(label: str, **style: Any) -> Line2D:
        settings: dict[str, Any] = {"ls": "none", "mec": MEASURED, "ms": 5} | style
        return Line2D([], [], label=label, **settings)

    entries = [
        entry("on the frontier", marker="o", mfc=MEASURED),
        entry("not separable at this n", marker="o", mfc="white"),
        entry("dominated", marker="o", mfc=MUTED, mec=MUTED, ms=3.6),
        entry("Pareto set as measured", color=MEASURED, ls="-", lw=1.2),
    ]
    if finished.whole:
        entries.append(entry("parent", marker="s", mfc="white"))
    if finished.smallest:
        entries.append(entry(str(finished.role(finished.smallest)), marker="^", mfc="white"))
    if finished.published_tasks and (finished.published_fits or finished.published_apart):
        entries.append(entry("published, not measured", marker="D", mfc="none", mec=PUBLISHED))
    height = figure.get_figheight()
    figure.legend(
        handles=entries,
        loc="lower left",
        bbox_to_anchor=(0.0, 0.2 / height),
        ncols=len(entries) if len(figure.axes) > 1 else 3,
        frameon=False,
        fontsize=7.5,
        handletextpad=0.4,
        columnspacing=1.4,
    )
    study = finished.study
    figure.text(
        0.01,
        0.08 / height,
        f"Bars: 95 % of each score by itself. Verdicts: paired, {study.comparisons} differences at "
        f"once (max-T, {study.replicates:,} bootstrap resamples of items).",
        fontsize=6.8,
        color="#5E646D",
    )


def size_unit(sizes: Any) -> tuple[float, str]:
    """Divisor and axis suffix that keep the numbers of an axis short."""
    top = max(sizes)
    for unit, suffix in ((1e9, ", billions"), (1e6, ", millions"), (1e3, ", thousands")):
        if top >= unit:
            return unit, suffix
    return 1.0, ""


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # matplotlib reads $...$ as mathematics


# --- labels ---


def _label(axis: Axes, points: list[_Point], soft: list[tuple[Floats, Floats]]) -> None:
    figure = axis.figure
    scale = figure.dpi / 72  # pixels a point
    markers = axis.transData.transform([(x, y) for x, y, *_ in points])
    order = sorted(range(len(points)), key=lambda i: (points[i][4], -points[i][1]))
    if len(points) > _CROWD:
        order = [i for i in order if points[i][4] < _LEAST]
    anchors = markers[order]
    texts = [
        axis.text(
            0,
            0,
            _plain(text),
            fontsize=6.4,
            color=colour,
            zorder=5,
            ha="left",
            va="bottom",
            transform=None,
            fontweight="bold" if priority < 2 else "normal",
        )
        for _, _, text, colour, priority in (points[i] for i in order)
    ]
    boxes = [text.get_window_extent() for text in texts]
    traces = [axis.transData.transform(np.column_stack(trace)) for trace in soft]
    bounds = axis.get_window_extent()
    placed = place_labels(
        [(float(x), float(y)) for x, y in anchors],
        [(box.width, box.height) for box in boxes],
        markers=[(float(x), float(y)) for x, y in markers],
        obstacles=[(float(x), float(y)) for trace in traces for x, y in _walk(trace, 2.5 * scale)],
        bounds=(bounds.x0, bounds.y0, bounds.x1, bounds.y1),
        unit=scale,
    )
    inverse = axis.transData.inverted()
    for text, box, (ax, ay), spot in zip(texts, boxes, anchors, placed, strict=True):
        if spot is None:
            text.remove()
            continue
        text.set_transform(axis.transData)
        text.set_position(tuple(inverse.transform(spot)))
        x0, y0 = spot
        x1, y1 = x0 + box.width, y0 + box.height
        near = (min(max(ax, x0), x1), min(max(ay, y0), y1))
        others = markers[(markers != (ax, ay)).any(axis=1)]
        reach = np.hypot(near[0] - ax, near[1] - ay)
        if reach > 9 * scale or gap_to(others, (x0, y0, x1, y1)) < reach + 2 * scale:
            line = inverse.transform([near, (ax, ay)])
            axis.plot(line[:, 0], line[:, 1], color=MUTED, lw=0.4, zorder=1.5)


def _walk(trace: Floats, step: float) -> Floats:
    """Points along a polyline, `step` apart."""
    pieces = []
    for start, end in pairwise(trace):
        if not np.isfinite([*start, *end]).all():
            continue
        count = int(np.hypot(*(end - start)) / step) + 2
        pieces.append(np.linspace(start, end, count))
    return np.concatenate(pieces) if pieces else np.empty((0, 2))
