"""Neighbouring layers that are alike, as people write and read them: `20-24`."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TypeVar

T = TypeVar("T")


def runs_of(values: Sequence[T]) -> list[tuple[range, T]]:
    """Neighbours of equal value as one run: `"aab"` -> `(range(0, 2), "a"), (range(2, 3), "b")`."""
    found = []
    start = 0
    for value, group in groupby(values):
        stop = start + len(list(group))
        found.append((range(start, stop), value))
        start = stop
    return found


def written(run: Sequence[int]) -> str:
    """`range(20, 25)` -> `20-24`, both ends included; a single layer is its number."""
    return str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}"


def written_layers(layers: Iterable[int]) -> str:
    """`[20, 21, 22, 30]` -> `20-22, 30`."""
    chosen = set(layers)
    flags = [layer in chosen for layer in range(max(chosen, default=-1) + 1)]
    return ", ".join(written(run) for run, inside in runs_of(flags) if inside)
