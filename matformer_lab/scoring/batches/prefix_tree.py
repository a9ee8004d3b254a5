"""A radix tree over token sequences, stored as a sorted list and what neighbours share.

Sorting puts sequences with a common prefix next to each other. Every subtree is then a run
`start:stop` of the list, and dividing the tree (`packing`) means dividing a list.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class FlatTree:
    """The nodes of a tree, one per distinct prefix, depth first: ancestors before descendants.

    Attributes:
        tokens: [nodes] token ids.
        depth: [nodes] distance from the root.
        subtree_end: [nodes] the descendants of node i, itself included, are `i:subtree_end[i]`.
        paths: Token d of sequence k is node `paths[k][d]`.
    """

    tokens: Ints
    depth: Ints
    subtree_end: Ints
    paths: tuple[Ints, ...]


class IndexedTree(NamedTuple):
    """A tree, and where in it each of the sequences it was made from is."""

    tree: PrefixTree
    places: list[int]
    """Sequence n of the input is `tree.sequences[places[n]]`."""


@dataclass(frozen=True)
class PrefixTree:
    """Distinct token sequences in sorted order.

    Attributes:
        sequences: Each [tokens].
        shared: [sequences] how many leading tokens each has in common with the one before it.
    """

    sequences: tuple[Ints, ...]
    shared: Ints

    @classmethod
    def of(cls, sequences: Iterable[Sequence[int]]) -> IndexedTree:
        """The tree of non-empty `sequences` of token ids, equal ones stored once."""
        # Big-endian bytes compare as the numbers do.
        keys = [np.asarray(sequence, dtype=">u4").tobytes() for sequence in sequences]
        distinct = sorted(set(keys))
        index = {key: k for k, key in enumerate(distinct)}
        arrays = tuple(np.frombuffer(key, dtype=">u4").astype(np.int64) for key in distinct)
        shared = [0, *(common_prefix(a, b) for a, b in pairwise(arrays))][: len(arrays)]
        tree = cls(arrays, np.asarray(shared, dtype=np.int64))
        return IndexedTree(tree, [index[key] for key in keys])

    def __len__(self) -> int:
        return len(self.sequences)

    def size(self, start: int, stop: int) -> int:
        """How many nodes the tree of the sequences `start:stop` has."""
        lengths = sum(len(sequence) for sequence in self.sequences[start:stop])
        return lengths - int(self.shared[start + 1 : stop].sum())

    def flatten(self, start: int, stop: int) -> FlatTree:
        """The tree of the sequences `start:stop` alone, laid out depth first."""
        tokens: list[Ints] = []
        paths: list[Ints] = []
        path = np.empty(0, dtype=np.int64)
        size = 0
        for k in range(start, stop):
            sequence = self.sequences[k]
            kept = int(self.shared[k]) if k > start else 0
            tokens.append(sequence[kept:])
            path = np.concatenate([path[:kept], np.arange(size, size + len(sequence) - kept)])
            size += len(sequence) - kept
            paths.append(path)
        depth = np.empty(size, dtype=np.int64)
        subtree_end = np.empty(size, dtype=np.int64)
        for path in paths:
            depth[path] = np.arange(len(path))
            # Sequences come depth first: the last one through a node ends its subtree.
            subtree_end[path] = path[-1] + 1
        return FlatTree(np.concatenate(tokens), depth, subtree_end, tuple(paths))


def common_prefix(a: Ints, b: Ints) -> int:
    """How many leading entries `a` and `b` share."""
    length = min(len(a), len(b))
    different = np.flatnonzero(a[:length] != b[:length])
    return int(different[0]) if len(different) else length
