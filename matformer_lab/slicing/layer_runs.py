"""Runs of neighbouring layers that are alike, as people write and read them: `20-24`."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Run(NamedTuple, Generic[T]):
    """Neighbouring layers with one value.

    Attributes:
        layers: The layers' indices; never empty.
        value: What they have in common.
    """

    layers: range
    value: T


def runs_of(values: Sequence[T]) -> list[Run[T]]:
    """The runs of equal neighbours among one value per layer.

    Examples:
        >>> runs_of("aab")
        [Run(layers=range(0, 2), value='a'), Run(layers=range(2, 3), value='b')]
    """
    found = []
    start = 0
    for value, group in groupby(values):
        stop = start + len(list(group))
        found.append(Run(range(start, stop), value))
        start = stop
    return found


def written(run: Sequence[int]) -> str:
    """A run of layers as text, both ends included.

    Examples:
        >>> written(range(20, 25)), written([7])
        ('20-24', '7')
    """
    return str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}"


def written_layers(layers: Iterable[int]) -> str:
    """Layers as text, neighbours as runs; empty for no layers.

    Examples:
        >>> written_layers([20, 21, 22, 30])
        '20-22, 30'
    """
    chosen = set(layers)
    flags = [layer in chosen for layer in range(max(chosen, default=-1) + 1)]
    return ", ".join(written(run) for run, inside in runs_of(flags) if inside)
