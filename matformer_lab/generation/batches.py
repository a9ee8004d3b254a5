"""Which prompts are decoded together: those that share a beginning, as many as memory holds.

A batch computes the beginning that all of its prompts share once, and holds its keys and values
once. A step costs something however few rows it has, so that a large batch can be worth more than
a long shared beginning. Where the batches end is chosen by a model of their cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from matformer_lab.scoring.batches.prefix_tree import PrefixTree

Ints = NDArray[np.int64]

STEP_ROWS: Final = 16
"""What a step costs besides its rows, in rows: kernels that are queued or weights that are read,
whichever takes longer. Between 5 (E4B on a CPU, whose weights are read once a step) and 100 (models
whose kernels take less time than their calls)."""
SHARED_READS: Final = 8
"""How many times as fast a row attends to a shared key as to one of its own: all rows read it at
once."""


class DecodeBatch(NamedTuple):
    """Prompts that are decoded together.

    Attributes:
        shared: How many leading tokens all of them have in common, at least one less than the
            shortest has.
        members: Their numbers, the longest first.
    """

    shared: int
    members: tuple[int, ...]


def decode_batches(
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    *,
    capacity: int,
    most_rows: int,
    attention_cost: float,
) -> list[DecodeBatch]:
    """Divide prompts into batches, at the least cost among those that keep them sorted.

    Args:
        prompts: Token ids, at least one each.
        new_tokens: How many tokens are generated for each, at most.
        capacity: The most tokens whose keys and values are held: what is shared counts once, the
            rest and the new tokens for every prompt. A prompt that alone needs more is a batch of
            its own.
        most_rows: The most prompts of a batch.
        attention_cost: Work on one pair of tokens in attention, relative to a token elsewhere.
    """
    if not prompts:
        return []
    indexed = PrefixTree.of(prompts)
    order = np.argsort(np.asarray(indexed.places), kind="stable")
    lengths = np.asarray([len(prompts[number]) for number in order.tolist()])
    common = _common(indexed.tree, np.asarray(indexed.places)[order])
    first_of = _cheapest(lengths, common, new_tokens, capacity, most_rows, attention_cost)
    batches = []
    stop = len(order)
    while stop:
        start = first_of[stop]
        here = slice(start, stop)
        shared = min([int(lengths[here].min()) - 1, *common[start + 1 : stop].tolist()])
        longest_first = sorted(order[here].tolist(), key=lambda each: (-len(prompts[each]), each))
        batches.append(DecodeBatch(shared, tuple(longest_first)))
        stop = start
    return batches[::-1]


def _common(tree: PrefixTree, places: Ints) -> Ints:
    """[prompts] how many leading tokens each sorted prompt has in common with the one before."""
    shared = tree.shared[places]
    again = np.flatnonzero(places[1:] == places[:-1]) + 1
    shared[again] = [len(tree.sequences[place]) for place in places[again].tolist()]
    return shared


def _cheapest(
    lengths: Ints,
    common: Ints,
    new_tokens: int,
    capacity: int,
    most_rows: int,
    attention_cost: float,
) -> list[int]:
    """Where the batch that ends before each prompt begins, in the cheapest division."""
    count = len(lengths)
    best = np.full(count + 1, np.inf)
    best[0] = 0.0
    first_of = np.zeros(count + 1, dtype=np.int64)
    for start in range(count):
        stop = min(count, start + most_rows)
        of = lengths[start:stop]
        rows = np.arange(1, len(of) + 1)
        sharing = np.concatenate([of[:1], common[start + 1 : stop]])
        shared = np.minimum(np.minimum.accumulate(sharing), np.minimum.accumulate(of) - 1)
        own = np.maximum.accumulate(of) - shared
        fits = shared + rows * (own + new_tokens) <= capacity
        fits[0] = True
        prefill = shared + np.cumsum(of) - rows * shared
        read = shared / SHARED_READS + own + new_tokens / 2
        step = STEP_ROWS + rows * (1 + attention_cost * read)
        cost = best[start] + prefill + new_tokens * step
        stops = start + rows
        better = fits & (cost < best[stops])
        best[stops[better]] = cost[better]
        first_of[stops[better]] = start
    return [int(each) for each in first_of]
