"""The labels of the picture's points."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from matformer_lab.report.label_placement import gap_to, place_labels
from matformer_lab.report.style import MUTED
from matformer_lab.statistics.outcomes import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_CROWD = 40  # more slices than this, and dominated ones go without a label


LEAST = 4


Point = tuple[float, float, str, str, int]  # x, y, text, colour, priority (small: first)


def without_maths(text: str) -> str:
    return text.replace("$", r"\$")  # matplotlib reads $...$ as mathematics


def place_texts(axis: Axes, points: list[Point], soft: list[tuple[Floats, Floats]]) -> None:
    figure = axis.figure
    scale = figure.dpi / 72  # pixels a point
    markers = axis.transData.transform([(x, y) for x, y, *_ in points])
    order = sorted(range(len(points)), key=lambda i: (points[i][4], -points[i][1]))
    if len(points) > _CROWD:
        order = [i for i in order if points[i][4] < LEAST]
    anchors = markers[order]
    texts = [
        axis.text(
            0,
            0,
            without_maths(text),
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
