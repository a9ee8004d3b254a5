"""How many tokens one forward may have: as many as memory has room for.

What enters is the same for all slices of a parent, so that all are packed alike, alone or together.
Only where memory is short does it matter what else lies there.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from matformer_lab.live.devices import free_bytes, has_own_memory
from matformer_lab.scoring.packed_forward import LOGITS_AT_ONCE
from matformer_lab.scoring.per_layer_rows import per_layer_table
from matformer_lab.scoring.piecewise_mlp import PIECE_BYTES

if TYPE_CHECKING:
    from transformers import Gemma3nForCausalLM

FEWEST_TOKENS = 256
MOST_TOKENS = 8192
# Activations that wait at branches of the trie while one of the 8 slices of a pass is computed.
WAITING_STATES = 3
# Batches whose rows an accelerator holds: one computed, one ready, one on its way.
BATCHES_OF_ROWS = 3
# What an accelerator's activations may take however small the weights are.
ROOM_ANYWAY = 1 << 28


@dataclass(frozen=True)
class TokenBudget:
    """`packing.pack`'s bounds: of a batch and what a row adds to its first text, and of a row."""

    batch_tokens: int
    row_tokens: int = sys.maxsize

    def halved(self) -> TokenBudget:
        return TokenBudget(self.batch_tokens // 2, self.row_tokens // 2)


def budget_for(model: Gemma3nForCausalLM) -> TokenBudget:
    """What `model`'s device has room for. A text longer than `row_tokens` is a row all the same."""
    tokens = tokens_within(room_for(model), model)
    return TokenBudget(min(MOST_TOKENS, tokens), tokens)


def room_for(model: Gemma3nForCausalLM) -> int:
    """Bytes that activations may take: half of what is free.

    On an accelerator no more than four fifths of `embed_tokens`, which every slice has whole. For
    E4B that is 9.5 % of the plan's `accelerator_bytes`, so that these and a tenth are all scoring
    needs, and thousands of tokens, so that it is none the slower for it.
    """
    weight = model.model.embed_tokens.weight
    room = free_bytes(weight.device) // 2
    if has_own_memory(weight.device):
        room = min(room, max(weight.nbytes * 4 // 5, ROOM_ANYWAY))
    return room


def tokens_within(room: int, model: Gemma3nForCausalLM) -> int:
    """Tokens of one forward whose activations take `room` bytes, in steps of `FEWEST_TOKENS`.

    Never less than one step, however small the room.
    """
    config, itemsize = model.config, model.model.embed_tokens.weight.itemsize
    state = itemsize * config.altup_num_inputs * config.hidden_size
    always = WAITING_STATES * state + BATCHES_OF_ROWS * itemsize * per_layer_table(model).shape[1]
    # Masks for two layer types, of all tokens and of the scored ones.
    masks = 4
    in_a_layer = _largest(
        room - PIECE_BYTES,
        always + 3 * state + 16 * itemsize * config.hidden_size,
        # In attention one mask as numbers, and these once more where rows must be aligned.
        masks + 2 * itemsize,
    )
    at_the_end = _largest(
        # Logits in the model's dtype, the same in fp32, and their log_softmax.
        room - LOGITS_AT_ONCE * (itemsize + 8),
        always + 2 * state + 2 * itemsize * config.hidden_size,
        masks,
    )
    tokens = int(min(in_a_layer, at_the_end))
    return max(FEWEST_TOKENS, tokens // FEWEST_TOKENS * FEWEST_TOKENS)


def _largest(room: int, per_token: int, per_pair: int) -> float:
    """The n for which n * per_token + n^2 * per_pair is `room`."""
    return (math.sqrt(per_token**2 + 4 * per_pair * max(0, room)) - per_token) / (2 * per_pair)
