"""A radix tree over token sequences, kept as a sorted list and what neighbours share.

Sorting puts sequences with a common prefix next to each other, so that every subtree is a run
`start:stop` of the list, and cutting the tree into pieces (`scoring.packing`) cuts a list.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class FlatTree:
    """The nodes of a tree, one per distinct prefix, depth first: ancestors before descendants.

    `tokens`, `depth` and `subtree_end` have one entry a node. The descendants of node i, itself
    included, are the nodes `i:subtree_end[i]`; token d of sequence k is node `paths[k][d]`.
    """

    tokens: Ints
    depth: Ints
    subtree_end: Ints
    paths: tuple[Ints, ...]


@dataclass(frozen=True)
class PrefixTree:
    """Distinct sequences, sorted; the first `shared[k]` tokens of sequence k are k - 1's too."""

    sequences: tuple[Ints, ...]
    shared: Ints

    @classmethod
    def of(cls, sequences: Iterable[Sequence[int]]) -> tuple[PrefixTree, list[int]]:
        """The tree of non-empty `sequences` of token ids, and for each of them its index in it."""
        # Big-endian bytes compare as the numbers do.
        keys = [np.asarray(sequence, dtype=">u4").tobytes() for sequence in sequences]
        distinct = sorted(set(keys))
        index = {key: k for k, key in enumerate(distinct)}
        arrays = tuple(np.frombuffer(key, dtype=">u4").astype(np.int64) for key in distinct)
        shared = [0, *(common_prefix(a, b) for a, b in pairwise(arrays))][: len(arrays)]
        return cls(arrays, np.asarray(shared, dtype=np.int64)), [index[key] for key in keys]

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
