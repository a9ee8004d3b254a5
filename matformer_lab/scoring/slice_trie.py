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
    """Layers that several slices have in common.

    Attributes:
        start: The first of these layers.
        stop: One past the last.
        below: Names of all slices that have them.
        ending: Names of the slices that have no further layers.
        children: Where the other slices go on, fewest slices first.
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
    """The trie of at least one slice.

    Args:
        slices: Layer keys by slice name. Equal keys at the same depth are the same computation.
    """
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
    """Walk the trie depth first, computing each layer once for all slices that share it.

    A state is dropped as soon as no branch needs it. Small branches go first, so that a state is
    kept only while a branch with at most half of its slices is walked: for n slices at most
    log2(n) + 1 states are alive besides the one `advance` is making.

    Args:
        root: From `build_trie`.
        state: The state before the first layer.
        advance: `advance(state, name, k)` returns the state after layer k of slice `name`, which
            stands for all slices that have this layer.
        arrive: `arrive(state, node)` is called with the final state of the slices `node.ending`.
    """
    # Only this list holds the state, so that popping the last branch frees it.
    pending = [(root, state)]
    del state
    while pending:
        node, here = pending.pop()
        for layer in range(node.start, node.stop):
            here = advance(here, node.below[0], layer)
        if node.ending:
            arrive(here, node)
        pending += [(child, here) for child in reversed(node.children)]
