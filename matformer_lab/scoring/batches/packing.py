"""Packs scoring requests by their common prefixes into batches with a bounded number of tokens.

A *row* is a part of the prefix tree laid out depth first; a *batch* is a few rows padded to one
length. Rows are chosen by dynamic programming: a longer row repeats fewer shared tokens, but in
attention each of its tokens meets every other one, masked or not, and that work grows with the
square of its length.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from matformer_lab.scoring.batches.prefix_tree import FlatTree, Ints, PrefixTree

FULLNESS = 0.8
"""The shortest row of a batch has at least this fraction of the longest one's tokens; the rest is
padding."""


@dataclass(frozen=True)
class Request:
    """A log-likelihood request in lm-eval's terms.

    Attributes:
        inputs: Token ids the model reads.
        targets: Token ids to score: `targets[t]` is predicted from
            `inputs[: len(inputs) - len(targets) + t + 1]`.
    """

    inputs: tuple[int, ...]
    targets: tuple[int, ...]

    @classmethod
    def of(cls, context: Sequence[int], continuation: Sequence[int], max_length: int) -> Request:
        """The request for `continuation` after `context`, cropped as lm-eval crops it.

        Args:
            context: Token ids.
            continuation: Token ids. The last one is only predicted, never read.
            max_length: The most tokens the model reads; longer texts lose their left end.

        Raises:
            ValueError: Where lm-eval has no answer either: an empty context, an empty continuation,
                or a continuation of more than `max_length` tokens.
        """
        if not context or not 0 < len(continuation) <= max_length:
            raise ValueError(
                f"a request needs a context and a continuation of 1 to {max_length} tokens, "
                f"not {len(context)} and {len(continuation)}"
            )
        kept = (*context, *continuation)[-(max_length + 1) :]
        return cls(inputs=kept[:-1], targets=tuple(continuation))


@dataclass(frozen=True)
class Batch:
    """What one forward reads, and which of its predictions are wanted.

    Attributes:
        input_ids: [rows, tokens], padded with 0.
        depth: [rows, tokens] distance of each token from its root: its position for the model.
        subtree_end: [rows, tokens] token j is an ancestor of token i, or i itself, if and only if
            j <= i < subtree_end[j]. A padding token is a root of its own.
        scored: [rows, slots] the tokens whose next-token distribution is read, padded with 0.
        slot: [reads] sorted. Each read is the log-probability of one `target` token, predicted at
            `scored.flat[slot]`, and counts towards one `request`.
        target: [reads] token ids.
        request: [reads] indices into the requests that were packed.
        tokens: How many tokens are not padding.
        is_causal: Whether every row is a single path, so that causal attention is enough.
    """

    input_ids: Ints
    depth: Ints
    subtree_end: Ints
    scored: Ints
    slot: Ints
    target: Ints
    request: Ints
    tokens: int
    is_causal: bool


class Row(NamedTuple):
    """One row of a batch: the run `start:stop` of a prefix tree's sequences."""

    start: int
    stop: int


class _Reads(NamedTuple):
    """The tokens to score in one row; each field is [reads]."""

    node: Ints
    target: Ints
    request: Ints


def pack(
    requests: Sequence[Request],
    *,
    batch_tokens: int,
    row_tokens: int = sys.maxsize,
    attention_cost: float,
) -> Iterator[Batch]:
    """Yield the requests as batches, longest rows first; each request is in exactly one of them.

    Args:
        requests: In any order. Duplicates and prefixes of others add nothing to the batches.
        batch_tokens: The most tokens a row may have beyond its first sequence, and the most tokens,
            padding included, of a batch with several rows.
        row_tokens: The most tokens of a row with several sequences.
        attention_cost: Work on one pair of tokens in attention, as a fraction of the work on one
            token everywhere else.
    """
    tree, numbers = tree_of(requests)
    rows = choose_rows(tree, batch_tokens, row_tokens, attention_cost)
    rows.sort(key=lambda row: -tree.size(*row))
    sizes = [tree.size(*row) for row in rows]
    first = 0
    while first < len(rows):
        most = max(1, batch_tokens // sizes[first])
        last = first + 1
        while last < min(first + most, len(rows)) and sizes[last] >= FULLNESS * sizes[first]:
            last += 1
        yield batch_of(tree, rows[first:last], numbers, requests)
        first = last


def tree_of(requests: Sequence[Request]) -> tuple[PrefixTree, list[list[int]]]:
    """The requests' inputs as a tree; and for each of its sequences, who reads it."""
    tree, places = PrefixTree.of([request.inputs for request in requests])
    numbers: list[list[int]] = [[] for _ in range(len(tree))]
    for number, place in enumerate(places):
        numbers[place].append(number)
    return tree, numbers


def choose_rows(
    tree: PrefixTree, batch_tokens: int, row_tokens: int, attention_cost: float
) -> list[Row]:
    """The cheapest rows that together hold all of the tree's sequences, in the tree's order.

    A row of n tokens costs n + attention_cost * n^2. The sum is minimal over all ways to divide the
    sorted sequences into runs within the bounds; a single sequence is always allowed.

    Args:
        tree: The sequences of all requests.
        batch_tokens: The most tokens a row may have beyond its first sequence.
        row_tokens: The most tokens of a row with several sequences.
        attention_cost: As for `pack`.
    """
    return cheapest_rows(
        tree,
        batch_tokens,
        most_of=lambda longest: np.full_like(longest, row_tokens),
        cost_of=lambda size: size + attention_cost * size**2,
    )


def cheapest_rows(
    tree: PrefixTree,
    batch_tokens: int,
    *,
    most_of: Callable[[Ints], Ints],
    cost_of: Callable[[Ints], NDArray[np.float64]],
) -> list[Row]:
    """As `choose_rows`, for other bounds and costs.

    Args:
        tree: The sequences of all requests.
        batch_tokens: The most tokens a row may have beyond its first sequence.
        most_of: The most tokens of rows with several sequences, given those of the longest one.
        cost_of: What rows cost, given their tokens.
    """
    lengths = np.array([len(sequence) for sequence in tree.sequences], dtype=np.int64)
    added = np.concatenate([[0], np.cumsum(lengths - tree.shared)])
    # earliest[stop]: the first start of a run that ends before `stop` within the budget
    earliest = np.searchsorted(added, added - batch_tokens) - 1
    best = np.zeros(len(tree) + 1)
    start_of = np.zeros(len(tree) + 1, dtype=np.int64)
    for stop in range(1, len(tree) + 1):
        first = max(0, min(int(earliest[stop]), stop - 1))
        size = lengths[first:stop] + added[stop] - added[first + 1 : stop + 1]
        cost = best[first:stop] + cost_of(size)
        longest = np.maximum.accumulate(lengths[first:stop][::-1])[::-1]
        cost[:-1][(size > most_of(longest))[:-1]] = np.inf
        choice = int(np.argmin(cost))
        best[stop], start_of[stop] = cost[choice], first + choice

    rows = []
    stop = len(tree)
    while stop > 0:
        start = int(start_of[stop])
        rows.append(Row(start, stop))
        stop = start
    return rows[::-1]


def batch_of(
    tree: PrefixTree,
    rows: Sequence[Row],
    numbers: Sequence[Sequence[int]],
    requests: Sequence[Request],
    *,
    padded: Callable[[int, int], tuple[int, int]] = lambda tokens, scored: (tokens, scored),
) -> Batch:
    """Some rows of a tree as a batch.

    Args:
        tree: All requests'.
        rows: Of about the same length.
        numbers: For each of the tree's sequences, the indices of the requests that read it.
        requests: All of them.
        padded: How many tokens a row has, and how many scored ones, given the most that any has.
    """
    flats = [tree.flatten(row.start, row.stop) for row in rows]
    reads = [
        _reads(flat, numbers[row.start : row.stop], requests)
        for flat, row in zip(flats, rows, strict=True)
    ]
    scored = [np.unique(each.node) for each in reads]
    length, slots = padded(
        max(len(flat.tokens) for flat in flats), max(len(nodes) for nodes in scored)
    )
    slot = np.concatenate(
        [
            row * slots + np.searchsorted(nodes, each.node)
            for row, (nodes, each) in enumerate(zip(scored, reads, strict=True))
        ]
    )
    order = np.argsort(slot, kind="stable")
    zeros = np.zeros(length, dtype=np.int64)
    return Batch(
        input_ids=np.stack([_pad(flat.tokens, zeros[:length]) for flat in flats]),
        depth=np.stack([_pad(flat.depth, zeros[:length]) for flat in flats]),
        subtree_end=np.stack([_pad(flat.subtree_end, np.arange(1, length + 1)) for flat in flats]),
        scored=np.stack([_pad(nodes, zeros[:slots]) for nodes in scored]),
        slot=slot[order],
        target=np.concatenate([each.target for each in reads])[order],
        request=np.concatenate([each.request for each in reads])[order],
        tokens=sum(len(flat.tokens) for flat in flats),
        is_causal=all(flat.depth[-1] + 1 == len(flat.depth) for flat in flats),
    )


def _reads(flat: FlatTree, numbers: Sequence[Sequence[int]], requests: Sequence[Request]) -> _Reads:
    nodes: list[Ints] = []
    targets: list[int] = []
    owners: list[int] = []
    for path, of_path in zip(flat.paths, numbers, strict=True):
        for number in of_path:
            wanted = requests[number].targets
            nodes.append(path[len(path) - len(wanted) :])
            targets += wanted
            owners += [number] * len(wanted)
    return _Reads(np.concatenate(nodes), np.array(targets), np.array(owners))


def _pad(values: Ints, filler: Ints) -> Ints:
    """`values`, then what `filler` has at the positions after them."""
    return np.concatenate([values, filler[len(values) :]])
