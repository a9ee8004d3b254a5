"""Which slices a scan measures: one-step changes around bases, so that they share their layers.

A slice that differs from its base in layer k shares the first k layers with every slice that
differs further up, and the sweep's trie computes those once: a scan costs about half of as many
unrelated slices. What one layer is worth depends on the others (at half width a layer is missed
more than at full width), so there is more than one base. Around the middle one, every choice of
every layer is measured; around the widest, the next narrower width alone.

Single changes say little about slices that differ in thirty layers, so random slices of the
budgets' sizes are measured too. With few evaluations the scan is thinned, not they.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Final

from matformer_lab.scoring.slice_trie import build_trie
from matformer_lab.search.method.budget import Budget
from matformer_lab.search.method.draw import random_slices
from matformer_lab.search.method.space import Pattern, Space

_MOST_MIXED: Final = 24
"""Random slices of a first design. On `tiny`, with 12 to 24 of them the surrogate foretold other
slices with a third of the error, and 48 brought little more."""


def first_design(
    space: Space, budgets: Sequence[Budget], evaluations: int, seed: int
) -> tuple[Pattern, ...]:
    """What a search measures first: a scan, and random slices of the budgets' sizes.

    A whole scan where that takes up to half of the evaluations, else one of a quarter of them. Of
    uniform slices, the scan alone, and half of the evaluations at most.

    Args:
        space: What may be chosen.
        budgets: Whose sizes the random slices have.
        evaluations: Of the whole search.
        seed: Of the random slices.
    """
    scan = first_scan(space, evaluations)
    if space.uniform:
        return scan[: max(1, evaluations // 2)]
    if len(scan) > evaluations // 2:
        scan = first_scan(space, max(1, evaluations // 4))
    mixed = min(_MOST_MIXED, evaluations // 6)
    drawn = [
        random_slices(space, budget, -(-mixed // len(budgets)), seed, f"mixed {budget.name}")
        for budget in budgets
    ]
    by_turns = [each for turn in zip_longest(*drawn) for each in turn if each is not None]
    return tuple(dict.fromkeys((*scan, *by_turns[:mixed])))


def bases(space: Space) -> tuple[Pattern, ...]:
    """What the first scan changes: every layer at its middle width, and at its widest."""
    middle = space.at(space.widths // 2)
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
    kept = [_spread(each, base, room * len(each) // max(1, total))
            for each, base in zip(changes, centres, strict=True)]  # fmt: skip
    chosen = (*anchors, *(near for each in kept for near in each))
    return tuple(dict.fromkeys(chosen))[:most]


def _is_next_narrower(space: Space, base: Pattern, near: Pattern) -> bool:
    (layer,) = (k for k, width in enumerate(near) if width != base[k])
    narrower = [width for width in space.choices[layer] if 0 < width < base[layer]]
    return bool(narrower) and near[layer] == narrower[-1]


def _spread(patterns: Sequence[Pattern], base: Pattern, most: int) -> list[Pattern]:
    """At most so many one-step changes of a base: all layers alike, and all widths.

    Every layer's changes come by turns, each layer's beginning with another width.
    """
    by_layer: dict[int, list[Pattern]] = {}
    for pattern in patterns:
        (layer,) = (k for k, width in enumerate(pattern) if width != base[k])
        by_layer.setdefault(layer, []).append(pattern)
    turned = [each[layer % len(each):] + each[: layer % len(each)]
              for layer, each in by_layer.items()]  # fmt: skip
    ordered = [
        [pattern for pattern in turn if pattern is not None] for turn in zip_longest(*turned)
    ]
    kept: list[Pattern] = []
    for turn in ordered:
        room = min(len(turn), most - len(kept))
        kept += [turn[number * len(turn) // room] for number in range(room)]
    return kept


def layer_forwards(patterns: Sequence[Pattern]) -> int:
    """How many layers are computed for these slices, those that they share once."""
    layers = {
        str(number): [(layer, width) for layer, width in enumerate(pattern) if width]
        for number, pattern in enumerate(patterns)
    }
    return build_trie(layers).layer_forwards() if layers else 0
