"""How many tokens one forward may have: as many as memory has room for.

The budget depends only on what all slices of a parent have in common, so that they are packed
alike, scored alone or together. Only where memory is short does it matter what else is loaded.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from matformer_lab.live.devices import free_bytes, has_own_memory
from matformer_lab.scoring.memory import LOGITS_AT_ONCE, PIECE_BYTES
from matformer_lab.scoring.per_layer_inputs import per_layer_table

if TYPE_CHECKING:
    from transformers import Gemma3nForCausalLM

FEWEST_TOKENS = 256
MOST_TOKENS = 8192
MOST_FLOPS = 120 * 118e9
"""Of a batch on a CPU: two minutes of two cores with AVX2, measured at 118 GFLOP/s. A batch is what
a killed pass loses."""
WAITING_STATES = 3
"""Activations that wait at branches of the trie, at most, while one of a pass's 8 slices is
computed."""
BATCHES_OF_INPUTS = 3
"""Batches whose per-layer inputs an accelerator holds: one being computed, one ready, one on its
way."""
LEAST_CAP_BYTES = 1 << 28
"""An accelerator's cap on activations is never below this, however small the weights."""


@dataclass(frozen=True)
class TokenBudget:
    """The bounds that `packing.pack` keeps to.

    Attributes:
        batch_tokens: The most tokens of a batch, and of what a row has beyond its first text.
        row_tokens: The most tokens of a row that holds several texts.
    """

    batch_tokens: int
    row_tokens: int = sys.maxsize

    def halved(self) -> TokenBudget:
        return TokenBudget(self.batch_tokens // 2, self.row_tokens // 2)


def budget_for(model: Gemma3nForCausalLM) -> TokenBudget:
    """What `model`'s device has room for. A text longer than `row_tokens` still gets a row."""
    tokens = tokens_within(room_for(model), model)
    most = min(MOST_TOKENS, tokens)
    if model.device.type == "cpu":
        # FFN widths do not enter, so that all slices of a parent are packed alike: E4B's layer has
        # 27 hidden_size^2 weights.
        layers = per_layer_table(model).shape[1] // model.config.hidden_size_per_layer_input
        per_token = 2 * layers * 27 * model.config.hidden_size**2
        in_steps = int(MOST_FLOPS / per_token) // FEWEST_TOKENS * FEWEST_TOKENS
        most = min(most, max(FEWEST_TOKENS, in_steps))
    return TokenBudget(most, tokens)


def room_for(model: Gemma3nForCausalLM) -> int:
    """Bytes that activations may take: half of what is free.

    On an accelerator at most four fifths of `embed_tokens`, which every slice has whole. For E4B
    that is 9.5 % of the plan's `accelerator_bytes`: scoring needs the plan and about a tenth more,
    and the room still holds thousands of tokens, so that scoring is no slower for it.
    """
    weight = model.model.embed_tokens.weight
    room = free_bytes(weight.device) // 2
    if has_own_memory(weight.device):
        room = min(room, max(weight.nbytes * 4 // 5, LEAST_CAP_BYTES))
    return room


def tokens_within(room: int, model: Gemma3nForCausalLM) -> int:
    """How many tokens' activations fit into `room` bytes, in steps of `FEWEST_TOKENS`.

    Never less than one step, however small the room. `tests/scoring/test_device_memory.py` measures
    the tensors of a forward against this formula.
    """
    config, itemsize = model.config, model.dtype.itemsize
    state = itemsize * config.altup_num_inputs * config.hidden_size
    always = WAITING_STATES * state + BATCHES_OF_INPUTS * itemsize * per_layer_table(model).shape[1]
    # Boolean masks: two layer types, for all tokens and for the scored ones.
    masks = 4
    in_a_layer = _largest(
        room - PIECE_BYTES,
        always + 3 * state + 16 * itemsize * config.hidden_size,
        # Attention turns one mask into numbers, and copies these where rows must be aligned.
        masks + 2 * itemsize,
    )
    at_the_end = _largest(
        # Logits in the model's dtype, the same in fp32, and their log_softmax in fp32.
        room - LOGITS_AT_ONCE * (itemsize + 8),
        always + 2 * state + 2 * itemsize * config.hidden_size,
        masks,
    )
    tokens = int(min(in_a_layer, at_the_end))
    return max(FEWEST_TOKENS, tokens // FEWEST_TOKENS * FEWEST_TOKENS)


def _largest(room: int, per_token: int, per_pair: int) -> float:
    """The n for which n * per_token + n^2 * per_pair is `room`."""
    return (math.sqrt(per_token**2 + 4 * per_pair * max(0, room)) - per_token) / (2 * per_pair)
