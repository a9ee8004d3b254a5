"""Random slices that use a budget up."""

from __future__ import annotations

import random

from matformer_lab.search.method.budget import Budget
from matformer_lab.search.method.space import Pattern, Space


def random_slices(
    space: Space, budget: Budget, count: int, seed: int, prefix: str
) -> tuple[Pattern, ...]:
    """Random slices that use up a budget, all different; fewer where there are not so many.

    Each is drawn, narrowed layer by layer in random order until it fits, and then widened as long
    as it fits.

    Args:
        space: What may be drawn.
        budget: They stay within it.
        count: How many.
        seed: Of the drawing.
        prefix: Makes the draws of different budgets different.
    """
    rng = random.Random(f"{seed} {prefix}")
    found: dict[Pattern, None] = {}
    for _ in range(50 * count):
        if len(found) == count:
            break
        pattern = fitted(space, budget, space.draw(rng), rng)
        if pattern is not None:
            found.setdefault(pattern)
    return tuple(found)


def fitted(space: Space, budget: Budget, pattern: Pattern, rng: random.Random) -> Pattern | None:
    """A pattern narrowed at random until it fits a budget, then widened as long as it fits.

    None where that leads nowhere.
    """
    for _ in range(20 * len(pattern)):
        if budget.holds(pattern):
            break
        narrower = [near for near in space.steps(pattern, -1) if space.valid(near)]
        if not narrower:
            return None
        pattern = rng.choice(narrower)
    else:
        return None
    while True:
        wider = [near for near in space.steps(pattern, 1)
                 if budget.holds(near) and space.valid(near)]  # fmt: skip
        if not wider:
            return pattern
        pattern = rng.choice(wider)
