"""Attention to keys that all rows of a batch share, and to those of each row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import Gemma3nForCausalLM

NAME: Final = "matformer_lab_split"


class Split(NamedTuple):
    """Keys, or values, of a layer.

    Attributes:
        shared: [heads, tokens, head_dim] what all rows share.
        own: [rows, heads, tokens, head_dim] what each row has of its own.
    """

    shared: Tensor
    own: Tensor


def split_attention(
    module: Any,
    query: Tensor,
    key: Split,
    value: Split,
    attention_mask: Tensor,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """One softmax over shared and own keys; the shared ones are read once for all rows.

    Args:
        module: Not used; transformers passes it.
        query: [rows, query heads, queries, head_dim].
        key: With fewer heads than the queries: neighbouring query heads share one.
        value: Like `key`.
        attention_mask: [rows, 1, queries, shared + own] what is added to the products.
        scaling: The factor of the products.

    Returns:
        [rows, queries, query heads, head_dim], and no weights.
    """
    rows, query_heads, queries, size = query.shape
    heads, shared = key.shared.shape[:2]
    group = query_heads // heads
    by_head = query.reshape(rows, heads, group * queries, size)
    if not shared and query.device.type == "cpu" and query.dtype == torch.float32:
        # The library's own kernel, 1.1 to 3.5 times as fast where there is nothing to share. Of
        # one query, the heads that share a key are taken as queries; of many, the mask would grow.
        alone = torch.nn.functional.scaled_dot_product_attention(
            by_head if queries == 1 else query,
            key.own,
            value.own,
            attn_mask=attention_mask,
            scale=scaling,
            enable_gqa=queries > 1,
        )
        return alone.reshape(rows, query_heads, queries, size).transpose(1, 2), None
    together = by_head.transpose(0, 1).reshape(heads, rows * group * queries, size)
    to_shared = together @ key.shared.transpose(-1, -2)
    to_shared = to_shared.view(heads, rows, group * queries, shared).transpose(0, 1)
    products = torch.cat([to_shared, by_head @ key.own.transpose(-1, -2)], dim=-1).float()
    products = products.view(rows, heads, group, queries, products.shape[-1])
    if scaling != 1.0:
        products *= scaling
    products += attention_mask[:, :, None]
    weights = torch.softmax(products, dim=-1).to(query.dtype).flatten(2, 3)
    of_shared = weights[..., :shared].transpose(0, 1).reshape(heads, rows * group * queries, shared)
    mixed = (of_shared @ value.shared).view(heads, rows, group * queries, size).transpose(0, 1)
    mixed = mixed + weights[..., shared:] @ value.own
    return mixed.reshape(rows, query_heads, queries, size).transpose(1, 2), None


@contextmanager
def attends_split(model: Gemma3nForCausalLM) -> Iterator[None]:
    """Within it, the model's layers attend to `Split` keys and values."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, split_attention)
    configs = {id(layer.self_attn.config): layer.self_attn.config for layer in model.model.layers}
    before = {key: config._attn_implementation for key, config in configs.items()}
    try:
        for config in configs.values():
            config._attn_implementation = NAME
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation = before[key]
