"""Spans of numbers, from a start to before a stop: bytes of a file, rows of a tensor."""

from collections.abc import Iterable, Iterator

Span = tuple[int, int]


def merged(spans: Iterable[Span], gap: int = 0) -> tuple[Span, ...]:
    """The spans in order, those joined that overlap or are at most `gap` apart."""
    result: list[Span] = []
    for start, stop in sorted(spans):
        if result and start <= result[-1][1] + gap:
            result[-1] = (result[-1][0], max(result[-1][1], stop))
        else:
            result.append((start, stop))
    return tuple(result)


def missing(wanted: Iterable[Span], have: Iterable[Span]) -> Iterator[Span]:
    """The parts of `wanted` that `have` (merged) does not cover."""
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
