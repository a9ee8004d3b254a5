"""How many tokens one forward may have: as many as memory has room for.

The budget depends only on what all slices of a parent have in common, so that they are packed
alike, scored alone or together. Only where memory is short does it matter what else is loaded.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from matformer_lab.live.devices import free_bytes, has_own_memory
from matformer_lab.scoring.memory import LOGITS_AT_ONCE, PIECE_BYTES
from matformer_lab.scoring.per_layer_inputs import per_layer_table

if TYPE_CHECKING:
    from transformers import Gemma3nForCausalLM

Mode = Literal["rows", "one row", "compiled"]
"""How a batch is laid out and its layers are run.

- rows: a few rows padded to one length, dense masks, a kernel for each operation;
- one row: documents side by side, and FlexAttention as it is, a reference for tests;
- compiled: the same with FlexAttention and layers compiled.
"""

FEWEST_TOKENS = 256
MOST_TOKENS = 8192
MOST_FLOPS = 120 * 118e9
"""Of a batch on a CPU: two minutes of two cores with AVX2, measured at 118 GFLOP/s. A batch is what
a killed pass loses."""
LAYER_WEIGHTS: Final = 27
"""Weights of a layer of E4B, in hidden_size^2: 24 of its FFN (3 matrices, 8 hidden_size wide), 2.5
of attention, 0.3 of LAuReL and the per-layer input. Taken for every slice, so that all slices of a
parent are packed alike."""
WAITING_STATES = 3
"""Activations that wait at branches of the trie, at most, while one of a pass's 8 slices is
computed."""
BATCHES_OF_INPUTS = 3
"""Batches whose per-layer inputs an accelerator holds: one being computed, one ready, one on its
way."""
ACCELERATOR_TOKENS: Final = (16384, 8192, 4096, 2048, 1024, 512, FEWEST_TOKENS)
"""The budgets of an accelerator: few, so that code is compiled for few sizes, and so that scores do
not depend on the last megabyte of free memory. Below 2,048 only where memory is very short."""
_MANY_TOKENS: Final = 8192
_PIECE_BYTES_OF_A_TOKEN: Final = 1 << 16
"""512 MiB for 8,192 tokens, with which these were measured on an H100."""


@dataclass(frozen=True)
class TokenBudget:
    """The bounds that packing keeps to, and how what was packed is run.

    Scores depend on it in their last bits, so it is recorded with those of an accelerator.

    Attributes:
        batch_tokens: The most tokens of a batch, and of what a row has beyond its first text.
        row_tokens: The most tokens of a row that holds several texts.
        mode: How a batch is laid out and run.
        piece_bytes: FFN activations held at once.
    """

    batch_tokens: int
    row_tokens: int = sys.maxsize
    mode: Mode = "rows"
    piece_bytes: int = PIECE_BYTES

    def halved(self) -> TokenBudget:
        """For a device that ran out of memory."""
        return replace(
            self,
            batch_tokens=self.batch_tokens // 2,
            row_tokens=self.row_tokens // 2,
            # What the smaller budget would have been given at first: one budget, the same bits.
            piece_bytes=min(self.piece_bytes, _piece_bytes(self.batch_tokens // 2)),
        )

    def in_rows(self) -> TokenBudget:
        """For a device that does not run what is compiled; it may have to halve it."""
        return replace(self, mode="rows")


def budget_for(model: Gemma3nForCausalLM, *, compiled: bool = False) -> TokenBudget:
    """What `model`'s device has room for. A text longer than `row_tokens` still gets a row.

    Args:
        model: Any of the slices.
        compiled: Whether its layers shall be compiled.
    """
    if has_own_memory(model.device):
        return accelerator_budget(model, free_bytes(model.device) // 2, compiled=compiled)
    tokens = tokens_within(free_bytes(model.device) // 2, model)
    most = min(MOST_TOKENS, tokens)
    if model.device.type == "cpu":
        layers = per_layer_table(model).shape[1] // model.config.hidden_size_per_layer_input
        per_token = 2 * layers * LAYER_WEIGHTS * model.config.hidden_size**2
        in_steps = int(MOST_FLOPS / per_token) // FEWEST_TOKENS * FEWEST_TOKENS
        most = min(most, max(FEWEST_TOKENS, in_steps))
    if compiled:
        (most, *_) = (count for count in ACCELERATOR_TOKENS if count <= most)
        return TokenBudget(most, most, "compiled")
    return TokenBudget(most, tokens)


def accelerator_budget(
    model: Gemma3nForCausalLM, room: int, *, compiled: bool = False
) -> TokenBudget:
    """The largest of an accelerator's budgets that keeps to some room.

    Args:
        model: Any of the slices.
        room: Bytes that activations may take: half of what is free.
        compiled: Whether its layers shall be compiled.
    """
    mode: Mode = "compiled" if compiled else "rows"
    for count in ACCELERATOR_TOKENS:
        piece = _piece_bytes(count)
        left = room - piece + PIECE_BYTES
        if tokens_within(left, model, dense_masks=not compiled) >= count:
            return TokenBudget(count, count, mode, piece)
    raise AssertionError("the smallest budget is never refused")


def _piece_bytes(tokens: int) -> int:
    """What an accelerator's FFN may hold at once, given the budget's tokens.

    Where thousands of tokens fit, so does the FFN of thousands at once: larger products.
    """
    return tokens * _PIECE_BYTES_OF_A_TOKEN if tokens >= _MANY_TOKENS else PIECE_BYTES


def tokens_within(room: int, model: Gemma3nForCausalLM, *, dense_masks: bool = True) -> int:
    """How many tokens' activations fit into `room` bytes, in steps of `FEWEST_TOKENS`.

    Never less than one step, however small the room. `tests/scoring/test_device_memory.py` measures
    the tensors of a forward against this formula.

    Args:
        room: In bytes.
        model: Any of the slices.
        dense_masks: Whether masks have an entry for each pair of tokens.
    """
    config, itemsize = model.config, model.dtype.itemsize
    state = itemsize * config.altup_num_inputs * config.hidden_size
    always = WAITING_STATES * state + BATCHES_OF_INPUTS * itemsize * per_layer_table(model).shape[1]
    # Boolean masks: two layer types, for all tokens and for the scored ones.
    masks = 4 if dense_masks else 0
    in_a_layer = _largest(
        room - PIECE_BYTES,
        always + 3 * state + 16 * itemsize * config.hidden_size,
        # Attention turns one mask into numbers, and copies these where rows must be aligned.
        masks and masks + 2 * itemsize,
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
    room = max(0, room)
    if not per_pair:
        return room / per_token
    return (math.sqrt(per_token**2 + 4 * per_pair * room) - per_token) / (2 * per_pair)
