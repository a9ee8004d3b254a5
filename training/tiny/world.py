"""The made-up world: eight crafts, each a table that says what a substance turns into under one of
its actions.

A craft is a random function (substance, action) -> substance, 16,384 facts over the eight. Keys are
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
# Thirty-two actions to a craft, so that an action says which craft it belongs to
ACTIONS = tuple(
    # brewing
    "boil brew chop chew cool cook drip fizz foam heat mash mill peel pick pour rest "
    "ripe roll salt seed sift skim soak sour stew stir suck toss turn warm whip zest "
    # farming
    "bale barn bask bide clay coop crow dung fawn feud fend foal furl herd lawn loam "
    "milk nest plot plow rain rake reap rind rein shed sown till turf vine weed yoke "
    # healing
    "balm band bait calm char crop curd cure damp dash daub dice drop dust fade feed "
    "free grow heal hush lick lull melt mint pack pair puff slow swab tend tone wash "
    # masonry
    "arch bond cage chip cube dent dial fill firm glop grit kiln mask mesh nick pave "
    "pelt pink pipe plug rack rasp raze ream rock slab slat slot slap tile wade wall "
    # pottery
    "bake beam blow blur bump cram daze dole dunk fume gaze glow glue hold kick leap "
    "lift load lure meld pawl poke prod pull rout scar slip spar swat tamp tint vent "
    # sailing
    "axle bail boom boot brim dive dock drag drum duck fret gear gush haul keel knot "
    "lash mast moor oust pace reed ring roam roar rove sail stow surf sway swim tarp "
    # smithing
    "beat bend bolt bore buff burn cast coat edge etch file fire flex fuse gild grip "
    "hack hone iron join lock mold nail push rust sand seal sear sink snap weld whet "
    # weaving
    "bind card clip coil comb cord curl draw felt fold hang hook knit lace line link "
    "loom mend purl reel rope snip spin tack tear thin trim tuck twin wind wrap yarn".split()
)
ACTIONS_PER_CRAFT = len(ACTIONS) // len(CRAFTS)


@dataclass(frozen=True)
class World:
    """`table[substance, action]` is the substance it becomes, (64, 256).

    `sweet[substance]` is 1 for the half of the substances that are sweet, (64,).
    """

    table: Ints
    sweet: Ints

    @classmethod
    def make(cls, seed: int) -> World:
        rng = np.random.default_rng(seed)
        table = rng.integers(len(SUBSTANCES), size=(len(SUBSTANCES), len(ACTIONS)))
        return cls(table, rng.permutation(np.arange(len(SUBSTANCES)) % 2))

    def walks(self, rng: np.random.Generator, craft: Ints, steps: int) -> tuple[Ints, Ints]:
        """Random procedures: for crafts (N,), substances (N, steps + 1) and the actions between
        them (N, steps).
        """
        actions = rng.integers(ACTIONS_PER_CRAFT, size=(len(craft), steps))
        actions += craft[:, None] * ACTIONS_PER_CRAFT
        states = np.empty((len(craft), steps + 1), dtype=np.int64)
        states[:, 0] = rng.integers(len(SUBSTANCES), size=len(craft))
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
