"""How much one forward makes at once. `token_budget` counts on these sizes being kept."""

from typing import Final

LOGITS_AT_ONCE: Final = 2**24
"""Logits held at once: 64 MiB in fp32, which is 64 tokens of Gemma's vocabulary."""

PIECE_BYTES: Final = 1 << 26
"""FFN activations held at once, in bytes: 512 tokens at E4B's full width in bf16, still enough for
a matrix product to run at full speed."""
