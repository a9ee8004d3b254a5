"""Which slice each training row is: the plotted widths, the published kind of mixes, the block
skip.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LAYERS = 35
STEPS = 8
SKIPPED = (20, 21, 22, 23, 24)


def sample(rng: np.random.Generator, rows: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Widths in eighths (rows, 35) and skip flags (rows, 35)."""
    widths = np.full((rows, LAYERS), STEPS)
    skips = np.zeros((rows, LAYERS), dtype=np.float32)
    kinds = rng.choice(
        ["full", "half", "quarter", "eighth", "e2b", "published", "mixed"],
        p=[0.45, 0.10, 0.08, 0.10, 0.07, 0.06, 0.14],
        size=rows,
    )
    for row, kind in enumerate(kinds):
        match kind:
            case "half" | "e2b":
                widths[row] = 4
            case "quarter":
                widths[row] = 2
            case "eighth":
                widths[row] = 1
            case "published":
                # One half and full, by layer or by block of five, as the published slices are
                by_block = rng.random() < 0.5
                broad = rng.random(7 if by_block else LAYERS) < rng.random()
                widths[row] = np.where(np.repeat(broad, 5) if by_block else broad, 8, 4)
            case "mixed":
                widths[row] = rng.choice([1, 2, 4, 8], size=LAYERS)
        if kind == "e2b" or (kind in ("published", "mixed") and rng.random() < 0.2):
            skips[row, list(SKIPPED)] = 1.0
    return widths, skips
