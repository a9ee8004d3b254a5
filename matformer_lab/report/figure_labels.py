"""The labels beside the picture's points."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from matformer_lab.report.label_placement import Box, gap_to, place_labels
from matformer_lab.report.style import MUTED
from matformer_lab.statistics.outcomes import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CROWD: Final = 40  # with more slices than this, dominated ones go without a label

LEAST: Final = 4
"""The priority of labels that a crowded panel leaves out."""


class LabelledPoint(NamedTuple):
    """A point of a panel, in the units of its axes, and its label.

    Attributes:
        x: Size.
        y: Score.
        text: The label.
        colour: Of the label.
        priority: Labels with a smaller one choose their place first; up to 1 they are bold.
    """

    x: float
    y: float
    text: str
    colour: str
    priority: int


class Trace(NamedTuple):
    """A line of a panel, in the units of its axes."""

    x: Floats
    y: Floats


class PanelLabels(NamedTuple):
    """What a panel wants labelled, and the lines that its labels had better not cover."""

    points: list[LabelledPoint]
    traces: list[Trace]


def without_maths(text: str) -> str:
    """Text that matplotlib shows as it is: it would read $...$ as mathematics."""
    return text.replace("$", r"\$")


def place_texts(axis: Axes, labels: PanelLabels) -> None:
    """Write the labels of a panel whose layout is settled, with leaders where they stand apart."""
    points = labels.points
    figure = axis.figure
    scale = figure.dpi / 72  # pixels per typographic point
    markers = axis.transData.transform([(point.x, point.y) for point in points])
    order = sorted(range(len(points)), key=lambda i: (points[i].priority, -points[i].y))
    if len(points) > _CROWD:
        order = [i for i in order if points[i].priority < LEAST]
    anchors = markers[order]
    texts = [
        axis.text(
            0,
            0,
            without_maths(point.text),
            fontsize=6.4,
            color=point.colour,
            zorder=5,
            ha="left",
            va="bottom",
            transform=None,
            fontweight="bold" if point.priority < 2 else "normal",
        )
        for point in (points[i] for i in order)
    ]
    boxes = [text.get_window_extent() for text in texts]
    traces = [axis.transData.transform(np.column_stack(trace)) for trace in labels.traces]
    bounds = axis.get_window_extent()
    placed = place_labels(
        [(float(x), float(y)) for x, y in anchors],
        [(box.width, box.height) for box in boxes],
        markers=[(float(x), float(y)) for x, y in markers],
        obstacles=[(float(x), float(y)) for trace in traces for x, y in _walk(trace, 2.5 * scale)],
        bounds=Box(bounds.x0, bounds.y0, bounds.x1, bounds.y1),
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
        if reach > 9 * scale or gap_to(others, Box(x0, y0, x1, y1)) < reach + 2 * scale:
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
