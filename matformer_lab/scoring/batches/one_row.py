"""Packs requests as one row a batch, documents side by side: for block-sparse attention.

There, blocks of tokens that cannot see each other cost nothing. So rows of unlike length need not
be padded to one length, and to divide a tree saves no work in attention. What is left to save is
the padding up to the next of a few fixed token counts, for each of which code is compiled once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from matformer_lab.scoring.batches.packing import Batch, Request, batch_of, cheapest_rows, tree_of
from matformer_lab.scoring.batches.prefix_tree import Ints

BLOCK: Final = 128
"""Tokens of a block of attention: what FlexAttention's kernels take at once, or a multiple of it.
All counts are multiples of it."""
SCORED_COUNTS: Final[Ints] = BLOCK * 2 ** np.arange(17, dtype=np.int64)
"""How many scored tokens a row has, unless it has no more tokens in all: few, as layers that reuse
K/V are compiled for each pair of the two counts."""
_TOKENS_OF_A_BATCH: Final = 512
"""What a batch costs besides its tokens, in tokens: the host's work, and the start of kernels."""


def token_counts(batch_tokens: int) -> Ints:
    """How many tokens a row may have: six counts up to `batch_tokens`, and more for longer texts.

    An eighth of it, a half, and from there steps of a quarter of a power of two: most rows are
    nearly full, because the next document did not fit. A text longer than `batch_tokens` is padded
    by a fifth of its row at most.
    """
    octaves = batch_tokens * 2.0 ** np.arange(17)
    counts = np.concatenate(
        [[batch_tokens / 8, batch_tokens / 2], np.outer(octaves, [5 / 8, 6 / 8, 7 / 8, 1]).ravel()]
    )
    found: Ints = np.unique(np.ceil(counts / BLOCK).astype(np.int64) * BLOCK)
    return found


def pack_one_row(requests: Sequence[Request], *, batch_tokens: int) -> Iterator[Batch]:
    """Yield the requests as batches of one row, longest first; each request is in one of them.

    The tokens computed, padding included, are the fewest for any division of the sorted requests.

    Args:
        requests: In any order. Duplicates and prefixes of others add nothing to the batches.
        batch_tokens: The most tokens of a row, unless one of its texts alone is longer.
    """
    tree, numbers = tree_of(requests)
    counts = token_counts(batch_tokens)

    def cost(sizes: Ints) -> NDArray[np.float64]:
        return _TOKENS_OF_A_BATCH + _next(counts, sizes).astype(float)

    def padded(tokens: int, scored: int) -> tuple[int, int]:
        length = int(_next(counts, tokens))
        return length, min(length, int(_next(SCORED_COUNTS, scored)))

    rows = cheapest_rows(
        tree,
        batch_tokens,
        # Beside a text that is longer, what its padding has room for: the other choices' endings.
        most_of=lambda longest: np.maximum(batch_tokens, _next(counts, longest)),
        cost_of=cost,
    )
    for row in sorted(rows, key=lambda row: -tree.size(*row)):
        yield batch_of(tree, [row], numbers, requests, padded=padded)


def _next(counts: Ints, least: Ints | int) -> Ints:
    """The least of the sorted counts that are no less."""
    found: Ints = counts[np.searchsorted(counts, least)]
    return found
