"""Where the labels of a scatter plot go: beside their markers, covering nothing else.

Pure geometry, in any unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from matformer_lab.statistics.outcomes import Floats
from matformer_lab.statistics.pareto import Bools

# Distances from the marker's centre, in typographic points.
_RINGS: Final = (4.5, 9.0, 15.0, 23.0, 32.0)
# Best first: upper left and lower right stay clear of a rising line.
_DIRECTIONS: Final = ((-1, 1), (1, -1), (1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1))


class Box(NamedTuple):
    """A rectangle, from its lower left to its upper right corner."""

    x0: float
    y0: float
    x1: float
    y1: float


def place_labels(
    anchors: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    *,
    markers: Sequence[tuple[float, float]] | None = None,
    obstacles: Sequence[tuple[float, float]] = (),
    bounds: Box,
    unit: float = 1.0,
) -> list[tuple[float, float] | None]:
    """Places for labels, the first label choosing first.

    A label never covers a marker, another label or the edge of `bounds`. Of the free spots it takes
    the nearest with the fewest obstacles beneath it, and avoids those where it would look like
    another marker's.

    Args:
        anchors: The point (x, y) that each label belongs to.
        sizes: The width and height of each label.
        markers: Points that no label may cover; None: the anchors.
        obstacles: Points on lines and bars, which labels avoid where they can.
        bounds: The area that all labels must lie in.
        unit: The length of a typographic point.

    Returns:
        The lower left corner of each label; None where no spot is free.
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
                box = Box(x0, y0, x0 + width, y0 + height)
                if x0 < bounds.x0 or y0 < bounds.y0 or box.x1 > bounds.x1 or box.y1 > bounds.y1:
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


def _inside(points: Floats, box: Box, margin: float = 0.0) -> Bools:
    x, y = points[:, 0], points[:, 1]
    across: Bools = (x > box.x0 - margin) & (x < box.x1 + margin)
    return across & (y > box.y0 - margin) & (y < box.y1 + margin)


def _clash(a: Box, b: Box, air: float) -> bool:
    return a.x0 < b.x1 + air and b.x0 < a.x1 + air and a.y0 < b.y1 and b.y0 < a.y1


def gap_to(points: Floats, box: Box) -> float:
    """Distance from a box to the nearest of the points, [points, 2]; infinite without points."""
    x, y = points[:, 0], points[:, 1]
    across = np.maximum(0, np.maximum(box.x0 - x, x - box.x1))
    down = np.maximum(0, np.maximum(box.y0 - y, y - box.y1))
    return float(np.hypot(across, down).min(initial=np.inf))
