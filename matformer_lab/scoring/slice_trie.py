"""A trie over slices: slices that agree on their first k layers share the nodes of those layers.

Nothing here knows what a layer is: a slice is a sequence of hashable layer keys.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

State = TypeVar("State")


@dataclass(frozen=True)
class TrieNode:
    """Layers `start:stop`, which all slices `below` this node have in common.

    The slices `ending` here have no further layers; the others go on in one of `children`, fewest
    slices first.
    """

    start: int
    stop: int
    below: tuple[str, ...]
    ending: tuple[str, ...]
    children: tuple[TrieNode, ...]

    def layer_forwards(self) -> int:
        """How many layers are computed in a walk over this node and all below it."""
        return self.stop - self.start + sum(child.layer_forwards() for child in self.children)


def build_trie(slices: Mapping[str, Sequence[Hashable]]) -> TrieNode:
    """The trie of at least one slice, given as name -> layer keys."""
    return _node(slices, tuple(slices), 0)


def _node(slices: Mapping[str, Sequence[Hashable]], names: tuple[str, ...], start: int) -> TrieNode:
    stop = start
    shortest = min(len(slices[name]) for name in names)
    first = slices[names[0]]
    while stop < shortest and all(slices[name][stop] == first[stop] for name in names):
        stop += 1
    branches: dict[Hashable, list[str]] = {}
    for name in names:
        if len(slices[name]) > stop:
            branches.setdefault(slices[name][stop], []).append(name)
    children = [_node(slices, tuple(branch), stop) for branch in branches.values()]
    return TrieNode(
        start=start,
        stop=stop,
        below=names,
        ending=tuple(name for name in names if len(slices[name]) == stop),
        children=tuple(sorted(children, key=lambda child: len(child.below))),
    )


def walk(
    root: TrieNode,
    state: State,
    advance: Callable[[State, str, int], State],
    arrive: Callable[[State, TrieNode], None],
) -> None:
    """Depth-first walk: `advance(state, name, k)` runs layer k of slice `name`, which stands for
    all slices that have it; `arrive` is called where slices end.

    States are dropped as soon as no branch needs them. Small branches go first, so that a state is
    kept only while a branch with at most half of its slices is walked: for n slices at most
    log2(n) + 1 states are alive besides the one `advance` is making.
    """
    # The state travels in the list alone, so that popping the last branch frees it.
    pending = [(root, state)]
    del state
    while pending:
        node, here = pending.pop()
        for layer in range(node.start, node.stop):
            here = advance(here, node.below[0], layer)
        if node.ending:
            arrive(here, node)
        pending += [(child, here) for child in reversed(node.children)]
