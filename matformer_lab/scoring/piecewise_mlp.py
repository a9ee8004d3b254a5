"""Gemma 3n's FFN, a bounded number of tokens at a time.

At full width its activations are by far the largest of a layer: tensors of eight times
`hidden_size` per token, four of them alive at once. In pieces they no longer grow with the batch,
so that a forward of thousands of tokens fits beside the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributions import Normal
from torch.nn.functional import relu

from matformer_lab.scoring.compiled_layers import compiled_for_any_size, not_compiled
from matformer_lab.scoring.memory import PIECE_BYTES

if TYPE_CHECKING:
    from transformers.models.gemma3n.modeling_gemma3n import Gemma3nTextMLP


@contextmanager
def in_pieces(
    mlp: Gemma3nTextMLP, piece_bytes: int | None = None, *, compiled: bool = False
) -> Iterator[None]:
    """Within it, `mlp` holds no more activations at once; results equal up to rounding.

    Args:
        mlp: A layer's FFN.
        piece_bytes: The most it holds; None: `PIECE_BYTES`.
        compiled: Whether its layer is compiled. The FFN's products then stay as they are, so that
            layers that differ in its width alone share their code, and what lies between them is
            compiled for any width.
    """
    before = vars(mlp).get("forward")  # set by a hook, accelerate's for instance
    forward = not_compiled(_fused_forward) if compiled else _forward
    mlp.forward = partial(forward, mlp, piece_bytes or PIECE_BYTES)  # type: ignore[method-assign]
    try:
        yield
    finally:
        if before is None:
            del mlp.forward
        else:
            mlp.forward = before  # type: ignore[method-assign]


def _gated(gate: Tensor, up: Tensor, act_fn: Callable[[Tensor], Tensor]) -> Tensor:
    return act_fn(gate) * up


def _sparsely_gated(
    gate: Tensor, up: Tensor, act_fn: Callable[[Tensor], Tensor], cutoff: Tensor
) -> Tensor:
    return act_fn(relu(gate - cutoff)) * up


def _forward(
    mlp: Gemma3nTextMLP,
    piece_bytes: int,
    hidden_states: Tensor,
    gated: Callable[..., Tensor] = _gated,
    sparsely_gated: Callable[..., Tensor] = _sparsely_gated,
) -> Tensor:
    """[..., hidden_size] -> [..., hidden_size]; activation sparsity depends on one token alone."""

    def ffn(tokens: Tensor) -> Tensor:
        """`Gemma3nTextMLP.forward`, to the bit."""
        gate, up = mlp.gate_proj(tokens), mlp.up_proj(tokens)
        if mlp.activation_sparsity > 0:
            deviations = _deviations(mlp.activation_sparsity, gate.dtype)
            spread = torch.std(gate, dim=-1, keepdim=True, unbiased=False)
            cutoff = torch.mean(gate, dim=-1, keepdim=True) + spread * deviations
            between = sparsely_gated(gate, up, mlp.act_fn, cutoff)
        else:
            between = gated(gate, up, mlp.act_fn)
        product: Tensor = mlp.down_proj(between)
        return product

    tokens = hidden_states.flatten(0, -2)
    of_a_token = 4 * mlp.intermediate_size * tokens.element_size()  # gate twice, up, product
    at_once = max(1, piece_bytes // of_a_token)
    if len(tokens) <= at_once:
        return ffn(hidden_states)
    output = torch.empty_like(tokens)
    for first in range(0, len(tokens), at_once):
        piece = slice(first, first + at_once)
        output[piece] = ffn(tokens[piece])
    return output.view_as(hidden_states)


def _fused_forward(mlp: Gemma3nTextMLP, piece_bytes: int, hidden_states: Tensor) -> Tensor:
    # Element by element alone: sums over a width would be rounded as the first width seen has it.
    return _forward(
        mlp,
        piece_bytes,
        hidden_states,
        compiled_for_any_size(_gated),
        compiled_for_any_size(_sparsely_gated),
    )


@cache
def _deviations(sparsity: float, dtype: torch.dtype) -> float:
    """How many standard deviations above its mean a normal distribution has `sparsity` below it.

    transformers computes it on the device in every forward, which stalls an accelerator.
    """
    quantile = Normal(0, 1).icdf(torch.tensor(sparsity, dtype=torch.float32))  # type: ignore[no-untyped-call]
    return float(quantile.to(dtype))
