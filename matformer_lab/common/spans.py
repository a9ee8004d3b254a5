"""Half-open spans of integers: bytes of a file, rows or columns of a tensor."""

from collections.abc import Iterable, Iterator

Span = tuple[int, int]
"""(start, stop), the stop excluded.

A plain tuple, since the addresses of a family's files are digests over printed spans
(`checkpoint.pieces`), and a named tuple prints otherwise."""


def merged(spans: Iterable[Span], gap: int = 0) -> tuple[Span, ...]:
    """The spans in ascending order, neighbours joined.

    Args:
        spans: In any order; they may overlap.
        gap: Join spans that are at most this far apart. At 0, only those that overlap or touch.

    Examples:
        >>> merged([(10, 12), (0, 4), (4, 6)])
        ((0, 6), (10, 12))
    """
    result: list[Span] = []
    for start, stop in sorted(spans):
        if result and start <= result[-1][1] + gap:
            result[-1] = (result[-1][0], max(result[-1][1], stop))
        else:
            result.append((start, stop))
    return tuple(result)


def missing(wanted: Iterable[Span], have: Iterable[Span]) -> Iterator[Span]:
    """The parts of `wanted` that `have` does not cover, in the order of `wanted`.

    Args:
        wanted: The spans to cover.
        have: The spans that are there, as `merged` returns them.

    Examples:
        >>> list(missing([(0, 10)], have=[(2, 4), (8, 12)]))
        [(0, 2), (4, 8)]
    """
    for start, stop in wanted:
        at = start
        for known_start, known_stop in have:
            if known_stop <= at or known_start >= stop:
                continue
            if known_start > at:
                yield at, known_start
            at = max(at, known_stop)
        if at < stop:
            yield at, stop
