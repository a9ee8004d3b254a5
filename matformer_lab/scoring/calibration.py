"""How fast this machine computes a layer of a parent: measured in about a second, without weights.

A layer and not a product: where matrices are small, most of the time goes between them.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any, Final

import torch

from matformer_lab.live.empty_model import empty_model
from matformer_lab.slicing.plan import Plan

_FLOPS: Final = 4e10
"""Of the timed forward: a third of a second at 118 GFLOP/s, the speed of two AVX2 cores."""
_ROW: Final = 128
"""Tokens of a packed row: as short benchmarks have."""
_MOST_ROWS: Final = 16


def flops_per_second(plan: Plan, *, dtype: str, device: str, threads: int | None = None) -> float:
    """The speed of the first layer of a slice, by the FLOPs of its matrix products.

    It is measured once in a process for parents of the same shape. Weights are made up.

    Args:
        plan: Of the slice, text-only.
        dtype: The compute dtype's name.
        device: A torch device.
        threads: CPU threads; None: torch's choice.
    """
    first = next(iter(plan.widths.values()))
    return _measured(_ByShape(plan, first), dtype, device, threads)


class _ByShape:
    """A plan that equals those whose first layer has the same shape."""

    def __init__(self, plan: Plan, width: int) -> None:
        self.plan = plan
        text = plan.text
        heads = text.num_attention_heads, text.num_key_value_heads, text.head_dim
        self._shape = (text.hidden_size, width, *heads, text.hidden_size_per_layer_input)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByShape) and self._shape == other._shape

    def __hash__(self) -> int:
        return hash(self._shape)


@lru_cache(maxsize=8)
@torch.inference_mode()
def _measured(shape: _ByShape, dtype: str, device: str, threads: int | None) -> float:
    kind = getattr(torch, dtype)
    model = empty_model(shape.plan, kind, device)
    text = model.model
    layer = text.layers[0].to_empty(device=device)
    for parameter in layer.parameters():
        parameter.fill_(0.01)  # memory that was never written costs nothing to read
    weights = sum(parameter.numel() for parameter in layer.parameters())
    pair = 4 * text.config.num_attention_heads * text.config.head_dim
    of_a_row = _ROW * (2 * weights + pair * _ROW)
    rows = int(min(_MOST_ROWS, max(1, _FLOPS / of_a_row)))
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        _forward(text, layer, 1, kind, device)
        began = time.perf_counter()
        _forward(text, layer, rows, kind, device)
        return float(of_a_row * rows / (time.perf_counter() - began))
    finally:
        torch.set_num_threads(before)


def _forward(text: Any, layer: Any, rows: int, dtype: torch.dtype, device: str) -> None:
    config = text.config
    hidden = torch.full(
        (config.altup_num_inputs, rows, _ROW, config.hidden_size), 0.1, dtype=dtype, device=device
    )
    places = torch.arange(_ROW, device=device).expand(rows, -1)
    output = layer(
        hidden,
        text.rotary_emb(hidden[0], places, config.layer_types[0]),
        torch.ones(rows, _ROW, config.hidden_size_per_layer_input, dtype=dtype, device=device),
        shared_kv_states={},
        attention_mask=torch.ones(rows, 1, _ROW, _ROW, dtype=torch.bool, device=device),
    )
    output.sum().item()  # waits for an accelerator
