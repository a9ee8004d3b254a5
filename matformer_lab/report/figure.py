"""The frontier as a static picture for papers and READMEs: `frontier.png` and `frontier.svg`.

One panel per task and one for the average. Colour tells measured from published, fill shows the
verdict, shape the role (square: the parent, triangle: the nested smallest). `report.html` uses the
same language.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from matformer_lab.common.files.atomic import write_atomic
from matformer_lab.report.figure_labels import (
    LEAST,
    LabelledPoint,
    PanelLabels,
    Trace,
    place_texts,
    without_maths,
)
from matformer_lab.report.style import INK, MEASURED, MUTED, PUBLISHED, SOFT, STYLE
from matformer_lab.results.files import FRONTIER_PNG, FRONTIER_SVG
from matformer_lab.results.sweep_results import TITLES, PublishedPoint, SweepResults
from matformer_lab.statistics.panel import Panel
from matformer_lab.statistics.ranking import Ranking, rank

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class FigureFiles(NamedTuple):
    """Where the picture was written."""

    png: Path
    svg: Path


class SizeUnit(NamedTuple):
    """The unit of a size axis."""

    divisor: float
    suffix: str


class _Label(NamedTuple):
    """The text beside a point, without its place."""

    text: str
    colour: str
    priority: int


def save_figure(sweep: SweepResults, folder: Path) -> FigureFiles:
    """Write `frontier.png` (200 dpi) and `frontier.svg` into `folder`."""
    for name, content in figure_files(sweep).items():
        write_atomic(folder / name, content)
    return FigureFiles(folder / FRONTIER_PNG, folder / FRONTIER_SVG)


def figure_files(sweep: SweepResults) -> dict[str, bytes]:
    """The content of `frontier.png` (200 dpi) and of `frontier.svg`."""
    import matplotlib as mpl

    files = {}
    with mpl.rc_context(STYLE):
        figure = draw(sweep)
        for name, metadata in ((FRONTIER_PNG, {"Software": None}), (FRONTIER_SVG, {"Date": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=name.rpartition(".")[2], dpi=200, metadata=metadata)
            files[name] = buffer.getvalue()
    return files


def draw(sweep: SweepResults) -> Figure:
    """The picture as a matplotlib figure."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    panels = sweep.panels
    apart = sweep.published_apart
    count = len(panels) + len(apart)
    columns = 1 if count == 1 else 2 if count <= 4 else 3
    rows = -(-count // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.6 * columns, 3.4 * rows + 1.1))
        grid = figure.subplots(rows, columns, squeeze=False)
        height = figure.get_figheight()
        figure.set_layout_engine("constrained", rect=(0, 0.6 / height, 1, 1 - 0.95 / height))
        axes = list(grid.flat)
        for spare in axes[count:]:
            spare.set_visible(False)
        labels = [
            _draw_panel(axis, sweep, panel) for axis, panel in zip(axes, panels, strict=False)
        ]
        labels += [
            _draw_published(axis, task, published)
            for axis, (task, published) in zip(axes[len(panels) :], apart.items(), strict=False)
        ]
        figure.suptitle(
            f"Slices of {without_maths(sweep.parent.name)}",
            x=0.01,
            y=1 - 0.1 / height,
            va="top",
            ha="left",
            fontweight="bold",
            color=INK,
            fontsize=10,
        )
        _legend(figure, sweep)
        figure.draw_without_rendering()  # settles the layout, so that labels can be measured
        figure.set_layout_engine("none")
        for axis, panel_labels in zip(axes, labels, strict=False):
            place_texts(axis, panel_labels)
    return figure


def _draw_panel(axis: Axes, sweep: SweepResults, panel: Panel) -> PanelLabels:
    standing = rank(panel, sweep.effective)
    unit, suffix = size_unit(sweep.effective.values())
    x = np.array([sweep.effective[name] for name in panel.slices]) / unit
    y, low, high = 100 * panel.values, 100 * panel.intervals[:, 0], 100 * panel.intervals[:, 1]
    on = np.flatnonzero(standing.pareto)
    on = on[np.argsort(x[on])]
    axis.plot(x[on], y[on], color=MEASURED, lw=1.2, alpha=0.8, zorder=2, gid="pareto")
    points: list[LabelledPoint] = []
    for i, name in enumerate(panel.slices):
        verdict = standing.verdicts[i]
        colour = MUTED if verdict == "dominated" else MEASURED
        if np.isfinite(low[i]):
            axis.vlines(x[i], low[i], high[i], color=colour, lw=1.0, alpha=0.45, zorder=1.8)
        marker = "s" if name == sweep.whole else "^" if name == sweep.smallest else "o"
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
        points.append(LabelledPoint(x[i], y[i], *_label_of(sweep, panel, standing, i, colour)))
    traces = [Trace(np.array([x[i], x[i]]), np.array([low[i], high[i]])) for i in range(len(x))]
    traces.append(Trace(x[on], y[on]))
    if sweep.published_fits:
        for scored in sweep.scored:
            score = sweep.published.get(panel.name, {}).get(scored.name)
            if score is not None:
                at = scored.effective / unit
                _diamond(axis, at, 100 * score)
                # Nine points in one place, so that a diamond counts as much as a long line.
                traces.append(Trace(np.full(9, at), np.full(9, 100 * score)))
    axis.set_title(
        f"{without_maths(sweep.title(panel.name))}  (n = {panel.n:,})", loc="left", fontsize=8.5
    )
    axis.set_xlabel(f"effective parameters{suffix}")
    axis.set_ylabel("score, %")
    axis.margins(0.09, 0.12)
    return PanelLabels(points, traces)


def _label_of(sweep: SweepResults, panel: Panel, standing: Ranking, i: int, colour: str) -> _Label:
    name = panel.slices[i]
    if role := sweep.role(name):
        return _Label(f"{name} ({role.split()[0]})", INK, 0 if role == "parent" else 1)
    if standing.verdicts[i] == "dominated":
        return _Label(name, SOFT, LEAST)
    return _Label(name, colour, 2 if standing.pareto[i] else 3)


def _draw_published(axis: Axes, task: str, published: Sequence[PublishedPoint]) -> PanelLabels:
    points: list[LabelledPoint] = []
    for name, x, score in published:
        _diamond(axis, x, 100 * score)
        points.append(LabelledPoint(x, 100 * score, name, PUBLISHED, 3))
    axis.set_title(
        f"{TITLES.get(task, task)} as published for E4B's slices (not measured here)",
        loc="left",
        fontsize=8.5,
        color=PUBLISHED,
    )
    axis.set_xlabel("effective parameters as published, billions")
    axis.set_ylabel("score, %")
    axis.margins(0.09, 0.12)
    return PanelLabels(points, [])


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


def _legend(figure: Figure, sweep: SweepResults) -> None:
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
    if sweep.whole:
        entries.append(entry("parent", marker="s", mfc="white"))
    if sweep.smallest:
        entries.append(entry(str(sweep.role(sweep.smallest)), marker="^", mfc="white"))
    if sweep.published_tasks and (sweep.published_fits or sweep.published_apart):
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
    study = sweep.study
    figure.text(
        0.01,
        0.08 / height,
        f"Bars: 95 % of each score by itself. Verdicts: paired, {study.comparisons} differences at "
        f"once (max-T, {study.replicates:,} bootstrap resamples of items).",
        fontsize=6.8,
        color=SOFT,
    )


def size_unit(sizes: Iterable[float]) -> SizeUnit:
    """The unit that keeps the numbers of an axis short."""
    top = max(sizes)
    for divisor, suffix in ((1e9, ", billions"), (1e6, ", millions"), (1e3, ", thousands")):
        if top >= divisor:
            return SizeUnit(divisor, suffix)
    return SizeUnit(1.0, "")
