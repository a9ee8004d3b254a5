"""The search page's charts, as SVG: no script, colours from the report's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from markupsafe import Markup

_WIDTH, _HEIGHT = 720, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 14, 44


class Mark(NamedTuple):
    """A point of a scatter chart.

    Attributes:
        x: In the units of the axis.
        y: Likewise.
        kind: Its class: `found`, `published`, `random` or `parent`.
        title: What is said about it.
        label: What stands beside it; empty for nothing.
        low: Lower end of its bar; None: no bar.
        high: Its upper end.
    """

    x: float
    y: float
    kind: str
    title: str
    label: str = ""
    low: float | None = None
    high: float | None = None


def scatter(marks: Sequence[Mark], x_title: str, y_title: str, *, diagonal: bool = False) -> Markup:
    """A chart of points.

    Args:
        marks: Later ones lie above earlier ones.
        x_title: Of the horizontal axis.
        y_title: Of the vertical one.
        diagonal: Whether to draw the line on which both are equal, and scale both axes alike.
    """
    xs = [mark.x for mark in marks]
    ys = [value for mark in marks for value in (mark.y, mark.low, mark.high) if value is not None]
    if diagonal:
        xs = ys = [*xs, *ys]
    x_axis, y_axis = _Axis.over(xs, _LEFT, _WIDTH - _RIGHT), _Axis.over(ys, _HEIGHT - _BOTTOM, _TOP)
    parts = [_grid(x_axis, y_axis, x_title, y_title)]
    if diagonal:
        parts.append(
            f'<path class="diagonal" d="M{x_axis(x_axis.low):.1f} {y_axis(x_axis.low):.1f}'
            f'L{x_axis(x_axis.high):.1f} {y_axis(x_axis.high):.1f}"/>'
        )
    heights = _label_heights(marks)
    for mark, (anchor, beside, below) in zip(marks, heights, strict=True):
        x, y = x_axis(mark.x), y_axis(mark.y)
        parts.append(f'<g class="{mark.kind}"><title>{escape(mark.title)}</title>')
        if mark.low is not None and mark.high is not None:
            parts.append(f'<path class="bar" d="M{x:.1f} {y_axis(mark.low):.1f}V'
                         f'{y_axis(mark.high):.1f}"/>')  # fmt: skip
        parts.append(_shape(mark.kind, x, y))
        if mark.label:
            parts.append(f'<text class="label" x="{x + beside:.1f}" y="{y + below:.1f}" '
                         f'text-anchor="{anchor}">{escape(mark.label)}</text>')  # fmt: skip
        parts.append("</g>")
    return Markup(
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(y_title)} against '
        f'{escape(x_title)}: {len(marks)} points">{"".join(parts)}</svg>'
    )


def _label_heights(marks: Sequence[Mark]) -> list[tuple[str, int, int]]:
    """Where the labels go: published slices' to the lower right, others' to the upper left.

    Neighbours take turns in height, so that few labels cover each other.

    Returns:
        Text anchor, and the distances to the right and down, for each mark.
    """
    order = sorted(range(len(marks)), key=lambda number: marks[number].x)
    turns = dict.fromkeys(("found", "published", "random", "parent"), 0)
    placed: dict[int, tuple[str, int, int]] = {}
    for number in order:
        kind = marks[number].kind
        turn = turns[kind] % 3
        turns[kind] += 1
        if kind == "published":
            placed[number] = ("start", 8, 14 + 13 * turn)
        else:
            placed[number] = ("end", -8, -7 - 13 * turn)
    return [placed[number] for number in range(len(marks))]


class Cell(NamedTuple):
    """A cell of a heat map."""

    layer: int
    row: int
    value: float
    title: str


def heat_map(cells: Sequence[Cell], rows: Sequence[str], layers: int) -> Markup:
    """What each layer's change costs (one colour) or gains (the other), a column for each layer.

    Colours grow with the square root, so that small effects are seen beside large ones.
    """
    most = max((abs(cell.value) for cell in cells), default=0.0) or 1.0
    left, pitch, high = 64, 18, 22
    parts = []
    for cell in cells:
        strength = math.sqrt(abs(cell.value) / most)
        kind = "cost" if cell.value < 0 else "gain"
        parts.append(
            f'<rect class="{kind}" x="{left + pitch * cell.layer}" y="{high * cell.row + 2}" '
            f'width="{pitch - 2}" height="{high - 3}" fill-opacity="{strength:.3f}">'
            f"<title>{escape(cell.title)}</title></rect>"
        )
    parts += [
        f'<text x="{left - 8}" y="{high * row + 16}" text-anchor="end">{escape(name)}</text>'
        for row, name in enumerate(rows)
    ]
    bottom = high * len(rows) + 16
    parts += [
        f'<text x="{left + pitch * layer + pitch / 2 - 1}" y="{bottom}" '
        f'text-anchor="middle">{layer}</text>'
        for layer in range(0, layers, 5)
    ]
    width = left + pitch * layers
    return Markup(
        f'<svg class="heat" viewBox="0 0 {width} {bottom + 4}" role="img" '
        f'aria-label="Effect of each width of each layer">{"".join(parts)}</svg>'
    )


class _Axis(NamedTuple):
    """A linear scale with round ticks."""

    low: float
    high: float
    start: float
    stop: float

    @classmethod
    def over(cls, values: Sequence[float], start: float, stop: float) -> _Axis:
        low, high = min(values), max(values)
        room = 0.06 * ((high - low) or abs(high) or 1.0)
        return cls(low - room, high + room, start, stop)

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.stop - self.start)

    def ticks(self) -> list[float]:
        span = self.high - self.low
        raw = span / 5
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(power * k for k in (1, 2, 5, 10) if power * k >= raw)
        first = math.ceil(self.low / step)
        return [step * k for k in range(first, math.floor(self.high / step) + 1)]


def _grid(x_axis: _Axis, y_axis: _Axis, x_title: str, y_title: str) -> str:
    parts = []
    for tick in y_axis.ticks():
        y = y_axis(tick)
        parts.append(f'<path class="rule" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:,.4g}</text>')
    for tick in x_axis.ticks():
        x = x_axis(tick)
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">'
                     f"{_short(tick)}</text>")  # fmt: skip
    parts.append(
        f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 6}" text-anchor="end">'
        f"{escape(x_title)} →</text>"
        f'<text x="{_LEFT}" y="{_HEIGHT - 6}">↑ {escape(y_title)}</text>'
    )
    return "".join(parts)


def _shape(kind: str, x: float, y: float) -> str:
    if kind == "parent":
        return f'<rect x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10"/>'
    if kind == "published":
        return f'<path d="M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z"/>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{3.4 if kind == "random" else 5.2}"/>'


def _short(value: float) -> str:
    for scale, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(value) >= scale:
            return f"{value / scale:g}{unit}"
    return f"{value:g}"
