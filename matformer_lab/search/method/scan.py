"""Which slices a scan measures: one-step changes around bases, so that they share their layers.

A slice that differs from its base in layer k shares the first k layers with every slice that
differs further up, and the sweep's trie computes those once: a scan costs about half of as many
unrelated slices. What one layer is worth depends on the others (at half width a layer is missed
more than at full width), so there is more than one base. Around the middle one, every choice of
every layer is measured; around the widest, the next narrower width alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from matformer_lab.scoring.slice_trie import build_trie
from matformer_lab.search.method.space import Pattern, Space


def bases(space: Space) -> tuple[Pattern, ...]:
    """What the first scan changes: every layer at its middle width, and at its widest."""
    middle = space.at((space.widths - 1 + 1) // 2)
    return tuple(dict.fromkeys((middle, space.full)))


def first_scan(space: Space, most: int) -> tuple[Pattern, ...]:
    """The slices to measure first, the most telling ones first.

    Args:
        space: What may be chosen.
        most: How many slices there may be. With fewer than the scan has, every base keeps an even
            share of its changes, and the surrogate fills in the rest.
    """
    if space.uniform:
        uniform = [space.at(rank) for rank in reversed(range(space.widths))]
        everything = uniform + [near for base in uniform for near in space.neighbours(base)]
        return tuple(dict.fromkeys(each for each in everything if space.valid(each)))[:most]
    centres = [base for base in bases(space) if space.valid(base)]
    uniform = [space.at(rank) for rank in range(space.widths)]
    anchors = [each for each in dict.fromkeys((*centres, *uniform)) if space.valid(each)]
    changes = [
        [
            near
            for near in space.neighbours(base)
            if base != space.full or base == centres[0] or _is_next_narrower(space, base, near)
        ]
        for base in centres
    ]
    if space.skip_sets:  # whole sets, which no single step reaches
        anchors += [
            tuple(0 if layer in each else width for layer, width in enumerate(base))
            for each in space.skip_sets
            if len(each) > 1
            for base in centres
        ]
    room = max(0, most - len(anchors))
    total = sum(map(len, changes))
    kept = [thinned(each, room * len(each) // max(1, total)) for each in changes]
    chosen = (*anchors, *(near for each in kept for near in each))
    return tuple(dict.fromkeys(chosen))[:most]


def _is_next_narrower(space: Space, base: Pattern, near: Pattern) -> bool:
    (layer,) = (k for k, width in enumerate(near) if width != base[k])
    narrower = [width for width in space.choices[layer] if 0 < width < base[layer]]
    return bool(narrower) and near[layer] == narrower[-1]


def thinned(patterns: Sequence[Pattern], most: int) -> list[Pattern]:
    """At most so many of the patterns, evenly spread."""
    if len(patterns) <= most:
        return list(patterns)
    return [patterns[number * len(patterns) // most] for number in range(most)]


def layer_forwards(patterns: Sequence[Pattern]) -> int:
    """How many layers are computed for these slices, those that they share once."""
    layers = {
        str(number): [(layer, width) for layer, width in enumerate(pattern) if width]
        for number, pattern in enumerate(patterns)
    }
    return build_trie(layers).layer_forwards() if layers else 0
