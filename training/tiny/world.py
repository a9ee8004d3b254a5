"""The made-up world: eight crafts, each a table that says what a substance turns into under one of
its actions.

A craft is a random function (substance, action) -> substance, 8,192 facts over the eight. Keys are
pairs, so that a fact can sit neither in a token's embedding nor in its per-layer embedding: the
layers have to learn it, and their room for it grows with the FFN width. All three tasks draw on
these facts; what differs is the skill put on top of them.
"""

# ruff: noqa: SIM905 (words in running lines read better than a column of quotes)

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

CRAFTS = (
    "brewing", "farming", "healing", "masonry", "pottery", "sailing", "smithing", "weaving",
)  # fmt: skip
# Substances have five letters and actions four, so that length normalisation (acc_norm) is fair to
# every ending.
SUBSTANCES = tuple(
    "algae amber basil birch bloom brass brine cedar chalk cider cloud cocoa copal "
    "coral cream daisy ebony ember ferns flint frost glass grain grape heath honey "
    "ivory jelly khaki lemon linen lotus maple marsh metal mists nacre night ochre "
    "olive onion opals paint paper peach pearl plume poppy quill resin river roses "
    "rusty salty sandy shale silky slate smoke spice steel stone straw sugar".split()
)
# Sixteen actions to a craft, so that an action says which craft it belongs to
ACTIONS = tuple(
    (
        # brewing
        "boil chop cool drip foam mash peel pour ripe salt sift soak stew suck turn whip "
        # farming
        "bale bask clay crow fawn fend furl lawn milk plot rain reap rein sown turf weed "
        # healing
        "balm bait char curd damp daub drop fade free heal lick melt pack puff swab tone "
        # masonry
        "arch cage cube dial firm grit mask nick pelt pipe rack raze rock slat slap wade "
        # pottery
        "bake blow bump daze dunk gaze glue kick lift lure pawl prod rout slip swat tint "
        # sailing
        "axle boom brim dock drum fret gush keel lash moor pace ring roar sail surf swim "
        # smithing
        "beat bolt buff cast edge file flex gild hack iron lock nail rust seal sink weld "
        # weaving
        "bind clip comb curl felt hang knit line loom purl rope spin tear trim twin wrap"
    ).split()
)
ACTIONS_PER_CRAFT = len(ACTIONS) // len(CRAFTS)


@dataclass(frozen=True)
class World:
    """`table[substance, action]` is the substance it becomes, (64, 128).

    `sweet[substance]` is 1 for the half of the substances that are sweet, (64,).
    """

    table: Ints
    sweet: Ints

    @classmethod
    def make(cls, seed: int) -> World:
        rng = np.random.default_rng(seed)
        table = rng.integers(len(SUBSTANCES), size=(len(SUBSTANCES), len(ACTIONS)))
        return cls(table, rng.permutation(np.arange(len(SUBSTANCES)) % 2))

    def walks(
        self, rng: np.random.Generator, craft: Ints, known: int = ACTIONS_PER_CRAFT
    ) -> tuple[Ints, Ints]:
        """Random procedures: for the craft of every step (N, steps), substances (N, steps + 1) and
        the actions between them (N, steps).

        Only the first `known` actions of a craft occur.
        """
        actions = rng.integers(known, size=craft.shape) + craft * ACTIONS_PER_CRAFT
        n, steps = craft.shape
        states = np.empty((n, steps + 1), dtype=np.int64)
        states[:, 0] = rng.integers(len(SUBSTANCES), size=n)
        for step in range(steps):
            states[:, step + 1] = self.table[states[:, step], actions[:, step]]
        return states, actions


def others(rng: np.random.Generator, truth: Ints, count: int) -> Ints:
    """For each substance of `truth` (N,), `count` distinct substances that differ from it, (N,
    count).
    """
    order = rng.random((len(truth), len(SUBSTANCES)))
    order[np.arange(len(truth)), truth] = np.inf
    return np.asarray(order.argsort(axis=1)[:, :count], dtype=np.int64)
