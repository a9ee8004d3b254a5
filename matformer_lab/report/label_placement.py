"""Where the labels of a scatter plot go: beside their markers, over nothing else. Pure geometry."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from matformer_lab.statistics.outcomes import Floats
from matformer_lab.statistics.pareto import Bools

Box = tuple[float, float, float, float]  # x0, y0, x1, y1


def place_labels(
    anchors: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    *,
    markers: Sequence[tuple[float, float]] | None = None,
    obstacles: Sequence[tuple[float, float]] = (),
    bounds: Box,
    unit: float = 1.0,
) -> list[tuple[float, float] | None]:
    """Lower left corners for labels of `sizes` beside `anchors`, earlier ones choosing first.

    A label never covers one of `markers` (the anchors, unless given), another label or the edge of
    `bounds`; among the free spots it takes the nearest with the fewest `obstacles` (points on lines
    and bars) beneath it, and shuns those that look like another marker's. None where no spot is
    free. `unit` is a typographic point in the anchors' unit.
    """
    dots = np.asarray(anchors if markers is None else markers, dtype=np.float64).reshape(-1, 2)
    thorns = np.asarray(obstacles, dtype=np.float64).reshape(-1, 2)
    taken: list[Box] = []
    spots: list[tuple[float, float] | None] = []
    for (x, y), (width, height) in zip(anchors, sizes, strict=True):
        others = dots[(dots != (x, y)).any(axis=1)]
        best: tuple[float, Box] | None = None
        for preference, (dx, dy) in enumerate(_DIRECTIONS):
            for ring in _RINGS:
                x0 = x + dx * ring * unit + (dx - 1) / 2 * width
                y0 = y + dy * ring * unit + (dy - 1) / 2 * height
                box = (x0, y0, x0 + width, y0 + height)
                if x0 < bounds[0] or y0 < bounds[1] or box[2] > bounds[2] or box[3] > bounds[3]:
                    continue
                if _inside(dots, box, 3.6 * unit).any() or any(_clash(box, t, unit) for t in taken):
                    continue
                astray = gap_to(others, box) < gap_to(np.array([(x, y)]), box) + 2 * unit
                cost = _inside(thorns, box).sum() + ring / 3 + 0.1 * preference + 8 * astray
                if best is None or cost < best[0]:
                    best = float(cost), box
        spots.append(best and best[1][:2])
        if best is not None:
            taken.append(best[1])
    return spots


_RINGS = (4.5, 9.0, 15.0, 23.0, 32.0)  # distance from the marker's centre, in points
# Best first: upper left and lower right stay clear of a rising line.
_DIRECTIONS = ((-1, 1), (1, -1), (1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1))


def _inside(points: Floats, box: Box, margin: float = 0.0) -> Bools:
    x, y = points[:, 0], points[:, 1]
    across: Bools = (x > box[0] - margin) & (x < box[2] + margin)
    return across & (y > box[1] - margin) & (y < box[3] + margin)


def _clash(a: Box, b: Box, air: float) -> bool:
    return a[0] < b[2] + air and b[0] < a[2] + air and a[1] < b[3] and b[1] < a[3]


def gap_to(points: Floats, box: Box) -> float:
    """Distance from a box to the nearest of some points."""
    x, y = points[:, 0], points[:, 1]
    across = np.maximum(0, np.maximum(box[0] - x, x - box[2]))
    down = np.maximum(0, np.maximum(box[1] - y, y - box[3]))
    return float(np.hypot(across, down).min(initial=np.inf))
