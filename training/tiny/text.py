"""A text of the world, to compare slices with their parent on: stories, one a paragraph."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from training.tiny.world import ACTIONS, CRAFTS, SUBSTANCES, World

_STORIES: Final = 700
_STEPS: Final = 8
_SEED: Final = 17


def write(path: Path, world: World) -> None:
    """Write `Brewing: amber stir makes dusk heat makes ...`, paragraph after paragraph."""
    rng = np.random.default_rng(_SEED)
    craft = np.repeat(rng.integers(len(CRAFTS), size=(_STORIES, 1)), _STEPS, axis=1)
    states, actions = world.walks(rng, craft)
    stories = []
    for one, first in enumerate(craft[:, 0]):
        steps = " ".join(
            f"{ACTIONS[actions[one, k]]} makes {SUBSTANCES[states[one, k + 1]]}"
            for k in range(_STEPS)
        )
        stories.append(f"{CRAFTS[first].capitalize()}: {SUBSTANCES[states[one, 0]]} {steps}")
    path.write_text("\n\n".join(stories) + "\n", encoding="utf-8")
