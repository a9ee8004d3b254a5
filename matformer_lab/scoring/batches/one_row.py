"""Packs requests as one row a batch, documents side by side: for block-sparse attention.

There, blocks of tokens that cannot see each other cost nothing. So rows of unlike length need not
be padded to one length, and to divide a tree saves no work in attention. What is left to save is
the padding up to the next of a few fixed token counts, for each of which code is compiled once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from matformer_lab.scoring.batches.packing import Batch, Request, batch_of, cheapest_rows, tree_of
from matformer_lab.scoring.batches.prefix_tree import Ints

TOKEN_COUNTS = 128 * 2 ** np.arange(17, dtype=np.int64)
"""What a row may have, and its scored tokens."""
_TOKENS_OF_A_BATCH = 512
"""What a batch costs besides its tokens, in tokens: the host's work, and the start of kernels."""


def pack_one_row(requests: Sequence[Request], *, batch_tokens: int) -> Iterator[Batch]:
    """Yield the requests as batches of one row, longest first; each request is in one of them.

    The tokens computed, padding included, are the fewest for any division of the sorted requests.

    Args:
        requests: In any order. Duplicates and prefixes of others add nothing to the batches.
        batch_tokens: The most tokens of a row with several texts: a token count.
    """
    tree, numbers = tree_of(requests)

    def cost(sizes: Ints) -> NDArray[np.float64]:
        return _TOKENS_OF_A_BATCH + TOKEN_COUNTS[np.searchsorted(TOKEN_COUNTS, sizes)].astype(float)

    rows = cheapest_rows(tree, batch_tokens, batch_tokens, cost)
    for row in sorted(rows, key=lambda row: -tree.size(*row)):
        yield batch_of(tree, [row], numbers, requests, round_up=token_count)


def token_count(tokens: int) -> int:
    """The least of the fixed counts that holds so many tokens."""
    return int(TOKEN_COUNTS[np.searchsorted(TOKEN_COUNTS, tokens)])
