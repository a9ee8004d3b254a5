"""Scoring requests packed by their common prefixes into batches of a bounded number of tokens.

A *row* is a piece of the prefix tree laid out depth first; a *batch* is a few rows padded to one
length. Rows are chosen by dynamic programming: a longer row repeats fewer shared tokens, but each
of its tokens meets every other one in attention, masked or not, which grows with its square.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from matformer_lab.scoring.prefix_tree import FlatTree, Ints, PrefixTree

# The shortest row of a batch has at least this part of the longest one's tokens; what is missing is
# padding.
FULLNESS = 0.8


@dataclass(frozen=True)
class Request:
    """What the model reads and the tokens it is asked for, in lm-eval's terms.

    `targets[t]` is predicted from `inputs[: len(inputs) - len(targets) + t + 1]`.
    """

    inputs: tuple[int, ...]
    targets: tuple[int, ...]

    @classmethod
    def of(cls, context: Sequence[int], continuation: Sequence[int], max_length: int) -> Request:
        """The last token is only predicted, never read; a text too long loses its left end.

        Raises ValueError where lm-eval has no answer either: an empty context, an empty
        continuation, or a continuation of more than `max_length` tokens.
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
    """What one forward reads, and what is read off it.

    Attributes:
        input_ids: [rows, tokens], padded with 0.
        depth: [rows, tokens] distance of each token from its root: its position for the model.
        subtree_end: [rows, tokens] token j is an ancestor of token i, or i itself, if and only if
            j <= i < subtree_end[j]. A token of padding is a root of its own.
        scored: [rows, slots] the tokens whose next-token distribution is read, padded with 0.
        slot, target, request: [reads] the log-probability of token `target` at `scored.flat[slot]`
            counts towards the request with that number. Sorted by slot.
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


def pack(
    requests: Sequence[Request],
    *,
    batch_tokens: int,
    row_tokens: int = sys.maxsize,
    attention_cost: float,
) -> Iterator[Batch]:
    """The requests as batches, longest rows first; each request is read off exactly one of them.

    Args:
        requests: In any order. Equal ones and prefixes of others add nothing to the batches.
        batch_tokens: A row has at most this many tokens beyond its first sequence; a batch of
            several rows at most this many in all, padding included.
        row_tokens: A row of several sequences has at most this many tokens in all.
        attention_cost: Work of one pair of tokens in attention, as a fraction of the work on one
            token everywhere else.
    """
    tree, places = PrefixTree.of([request.inputs for request in requests])
    members: list[list[int]] = [[] for _ in range(len(tree))]
    for number, place in enumerate(places):
        members[place].append(number)

    rows = cut(tree, batch_tokens, row_tokens, attention_cost)
    rows.sort(key=lambda row: -tree.size(*row))
    sizes = [tree.size(*row) for row in rows]
    first = 0
    while first < len(rows):
        most = max(1, batch_tokens // sizes[first])
        last = first + 1
        while last < min(first + most, len(rows)) and sizes[last] >= FULLNESS * sizes[first]:
            last += 1
        yield _batch(tree, rows[first:last], members, requests)
        first = last


def cut(
    tree: PrefixTree, batch_tokens: int, row_tokens: int, attention_cost: float
) -> list[tuple[int, int]]:
    """The runs `start:stop` of the tree's sequences that make the cheapest rows.

    A row of n tokens costs n + attention_cost * n^2. Minimal over all ways to cut the sorted
    sequences into runs whose tokens number at most `row_tokens`, and beyond the first sequence at
    most `batch_tokens`; a single sequence is always a run.
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
        cost = best[first:stop] + size + attention_cost * size**2
        cost[:-1][size[:-1] > row_tokens] = np.inf
        choice = int(np.argmin(cost))
        best[stop], start_of[stop] = cost[choice], first + choice

    rows = []
    stop = len(tree)
    while stop > 0:
        start = int(start_of[stop])
        rows.append((start, stop))
        stop = start
    return rows[::-1]


def _batch(
    tree: PrefixTree,
    rows: Sequence[tuple[int, int]],
    members: Sequence[Sequence[int]],
    requests: Sequence[Request],
) -> Batch:
    flats = [tree.flatten(start, stop) for start, stop in rows]
    reads = [
        _reads(flat, members[start:stop], requests)
        for flat, (start, stop) in zip(flats, rows, strict=True)
    ]
    scored = [np.unique(node) for node, _, _ in reads]
    slots = max(len(nodes) for nodes in scored)
    slot = np.concatenate(
        [
            row * slots + np.searchsorted(nodes, node)
            for row, (nodes, (node, _, _)) in enumerate(zip(scored, reads, strict=True))
        ]
    )
    order = np.argsort(slot, kind="stable")
    length = max(len(flat.tokens) for flat in flats)
    zeros = np.zeros(max(length, slots), dtype=np.int64)
    return Batch(
        input_ids=np.stack([_pad(flat.tokens, zeros[:length]) for flat in flats]),
        depth=np.stack([_pad(flat.depth, zeros[:length]) for flat in flats]),
        subtree_end=np.stack([_pad(flat.subtree_end, np.arange(1, length + 1)) for flat in flats]),
        scored=np.stack([_pad(nodes, zeros[:slots]) for nodes in scored]),
        slot=slot[order],
        target=np.concatenate([target for _, target, _ in reads])[order],
        request=np.concatenate([request for _, _, request in reads])[order],
        tokens=sum(len(flat.tokens) for flat in flats),
        is_causal=all(flat.depth[-1] + 1 == len(flat.depth) for flat in flats),
    )


def _reads(
    flat: FlatTree, members: Sequence[Sequence[int]], requests: Sequence[Request]
) -> tuple[Ints, Ints, Ints]:
    """(node, target, request) of every token to score in one row."""
    nodes: list[Ints] = []
    targets: list[int] = []
    owners: list[int] = []
    for path, numbers in zip(flat.paths, members, strict=True):
        for number in numbers:
            wanted = requests[number].targets
            nodes.append(path[len(path) - len(wanted) :])
            targets += wanted
            owners += [number] * len(wanted)
    return np.concatenate(nodes), np.array(targets), np.array(owners)


def _pad(values: Ints, filler: Ints) -> Ints:
    """`values`, then what `filler` has at the positions after them."""
    return np.concatenate([values, filler[len(values) :]])
