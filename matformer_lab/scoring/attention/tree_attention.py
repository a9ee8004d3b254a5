"""Block-sparse attention to a token's ancestors, by FlexAttention.

`torch.nn.attention.flex_attention` takes the rule itself, and computes only blocks in which it
holds. Compiled, that is one kernel. As it is, it makes every score: a reference for tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor

from matformer_lab.live.devices import send
from matformer_lab.scoring.attention.visible_blocks import Bools, visible_blocks
from matformer_lab.scoring.batches.one_row import BLOCK
from matformer_lab.scoring.batches.prefix_tree import Ints

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask
    from transformers import Gemma3nForCausalLM

_NAME: Final = "matformer_lab_tree"


@contextmanager
def by_tree_attention(models: Iterable[Gemma3nForCausalLM]) -> Iterator[None]:
    """Within it, the models' layers take a `BlockMask` for their mask."""
    from transformers import AttentionInterface

    AttentionInterface.register(_NAME, _attention)
    configs = {id(config): config for model in models for config in _configs(model)}.values()
    before = [config._attn_implementation for config in configs]
    for config in configs:
        config._attn_implementation = _NAME
    try:
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation = name


def _configs(model: Gemma3nForCausalLM) -> list[Any]:
    """Those that the model's layers read; siblings share layers, and not their configs."""
    return [layer.self_attn.config for layer in model.model.layers]


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: BlockMask,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """As transformers calls it: [1, heads, tokens, head_dim] -> [1, tokens, heads, head_dim]."""
    from torch.nn.attention.flex_attention import flex_attention

    found = flex_attention(
        query, key, value, block_mask=attention_mask, scale=scaling, enable_gqa=True
    )
    assert isinstance(found, Tensor)
    return found.transpose(1, 2).contiguous(), None


def block_mask(
    queries: Ints, subtree_end: Ints, depth: Ints, window: int | None, device: torch.device
) -> BlockMask:
    """Which of a row's tokens some queries see.

    Args:
        queries: [queries] their places in the row.
        subtree_end: [tokens] as in `Batch`.
        depth: [tokens] as in `Batch`.
        window: How many of its ancestors a token sees, itself included; None: all of them.
        device: Where attention is computed.
    """
    from torch.nn.attention.flex_attention import BlockMask

    def there(values: Ints) -> Tensor:
        return send(torch.from_numpy(values.astype(np.int32)), device)

    def listed(blocks: Bools) -> tuple[Tensor, Tensor]:
        """How many key blocks each query block has, and their numbers, these first."""
        numbers = np.argsort(~blocks, axis=1, kind="stable")
        return there(blocks.sum(axis=1)[None, None]), there(numbers[None, None])

    blocks = visible_blocks(queries, subtree_end, depth, window, size=BLOCK)
    (some, some_numbers), (every, every_numbers) = listed(blocks.some), listed(blocks.all)
    return BlockMask.from_kv_blocks(
        some,
        some_numbers,
        every,
        every_numbers,
        BLOCK_SIZE=BLOCK,
        mask_mod=_rule(there(queries), there(subtree_end), there(depth), window),
        seq_lengths=(len(queries), len(subtree_end)),
    )


def _rule(place: Tensor, subtree_end: Tensor, depth: Tensor, window: int | None) -> Any:
    """The mask of one query and one key, as FlexAttention asks for it."""

    def is_ancestor(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        at = place[query]
        return (key <= at) & (at < subtree_end[key])

    if window is None:
        return is_ancestor

    def is_near_ancestor(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        is_near = depth[place[query]] - depth[key] < window
        return is_ancestor(batch, head, query, key) & is_near

    return is_near_ancestor
