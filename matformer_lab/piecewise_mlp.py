"""Gemma 3n's FFN, a bounded number of tokens at a time.

At full width its activations are the largest of a layer by far: eight times `hidden_size` for each
token, four of them alive at once. In pieces they no longer grow with the batch, so that a forward
of thousands of tokens fits beside the weights.
"""

import torch
from torch import Tensor
from transformers.models.gemma3n.modeling_gemma3n import Gemma3nTextMLP

PIECE_BYTES = 1 << 26
"""Of a piece's activations: 512 tokens of E4B's full width in bf16, still enough of them for the
full speed of a matrix product."""


class PiecewiseMLP(Gemma3nTextMLP):
    """`Gemma3nTextMLP` with `PIECE_BYTES` of activations at a time; equal up to rounding."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[..., hidden_size] -> [..., hidden_size]; activation sparsity is each token's own."""
        tokens = hidden_states.flatten(0, -2)
        of_a_token = 4 * self.intermediate_size * tokens.element_size()  # gate twice, up, product
        at_once = max(1, PIECE_BYTES // of_a_token)
        if len(tokens) <= at_once:
            return super().forward(hidden_states)
        output = torch.empty_like(tokens)
        for first in range(0, len(tokens), at_once):
            piece = slice(first, first + at_once)
            output[piece] = super().forward(tokens[piece])
        return output.view_as(hidden_states)
