"""Which blocks of tokens can see which, in a row of documents laid out depth first.

Token j is an ancestor of token i, or i itself, if and only if `j <= i < subtree_end[j]`. Of a block
of queries and a block of keys, the least and the greatest of these numbers say whether no pair or
every pair is one of those: no mask with an entry for each pair of tokens is ever made.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from matformer_lab.scoring.batches.prefix_tree import Ints

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class VisibleBlocks:
    """Blocks by what the queries in one see of the keys in another: nothing where both are False.

    Attributes:
        some: [query blocks, key blocks] pairs have to be looked at one by one.
        all: [query blocks, key blocks] every query sees every key.
    """

    some: Bools
    all: Bools


def visible_blocks(
    queries: Ints, subtree_end: Ints, depth: Ints, window: int | None, *, size: int
) -> VisibleBlocks:
    """The blocks of one row.

    Args:
        queries: [queries] places of the query tokens in the row; padding is any place.
        subtree_end: [tokens] as in `Batch`.
        depth: [tokens] as in `Batch`.
        window: How many of its ancestors a token sees, itself included; None: all of them.
        size: Tokens of a block, of which both are a multiple.
    """
    place = queries.reshape(-1, size)
    first, last = place.min(axis=1)[:, None], place.max(axis=1)[:, None]
    end, start = subtree_end.reshape(-1, size), np.arange(0, len(subtree_end), size)
    some = (start <= last) & (end.max(axis=1) > first)
    all_ = (start + size - 1 <= first) & (end.min(axis=1) > last)
    if window is not None:
        # Deeper by fewer than `window`: the nearest and the furthest that a pair could be.
        query, key = depth[place], depth.reshape(-1, size)
        some &= query.min(axis=1)[:, None] - key.max(axis=1) < window
        all_ &= query.max(axis=1)[:, None] - key.min(axis=1) < window
    return VisibleBlocks(some & ~all_, all_)
