"""Gemma 3n's FFN, a bounded number of tokens at a time.

At full width its activations are by far the largest of a layer: tensors of eight times
`hidden_size` per token, four of them alive at once. In pieces they no longer grow with the batch,
so that a forward of thousands of tokens fits beside the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributions import Normal
from torch.nn.functional import relu

from matformer_lab.scoring.memory import PIECE_BYTES

if TYPE_CHECKING:
    from transformers.models.gemma3n.modeling_gemma3n import Gemma3nTextMLP


@contextmanager
def in_pieces(mlp: Gemma3nTextMLP) -> Iterator[None]:
    """Within it, `mlp` holds at most `PIECE_BYTES` of activations; results equal up to rounding."""
    before = vars(mlp).get("forward")  # set by a hook, accelerate's for instance
    mlp.forward = partial(_forward, mlp)  # type: ignore[method-assign]
    try:
        yield
    finally:
        if before is None:
            del mlp.forward
        else:
            mlp.forward = before  # type: ignore[method-assign]


def _forward(mlp: Gemma3nTextMLP, hidden_states: Tensor) -> Tensor:
    """[..., hidden_size] -> [..., hidden_size]; activation sparsity depends on one token alone."""
    tokens = hidden_states.flatten(0, -2)
    of_a_token = 4 * mlp.intermediate_size * tokens.element_size()  # gate twice, up, product
    at_once = max(1, PIECE_BYTES // of_a_token)
    if len(tokens) <= at_once:
        return _ffn(mlp, hidden_states)
    output = torch.empty_like(tokens)
    for first in range(0, len(tokens), at_once):
        piece = slice(first, first + at_once)
        output[piece] = _ffn(mlp, tokens[piece])
    return output.view_as(hidden_states)


def _ffn(mlp: Gemma3nTextMLP, tokens: Tensor) -> Tensor:
    """`Gemma3nTextMLP.forward`, to the bit."""
    gate = mlp.gate_proj(tokens)
    if mlp.activation_sparsity > 0:
        deviations = _deviations(mlp.activation_sparsity, gate.dtype)
        spread = torch.std(gate, dim=-1, keepdim=True, unbiased=False)
        gate = relu(gate - (torch.mean(gate, dim=-1, keepdim=True) + spread * deviations))
    product: Tensor = mlp.down_proj(mlp.act_fn(gate) * mlp.up_proj(tokens))
    return product


@cache
def _deviations(sparsity: float, dtype: torch.dtype) -> float:
    """How many standard deviations above its mean a normal distribution has `sparsity` below it.

    transformers computes it on the device in every forward, which stalls an accelerator.
    """
    quantile = Normal(0, 1).icdf(torch.tensor(sparsity, dtype=torch.float32))  # type: ignore[no-untyped-call]
    return float(quantile.to(dtype))
