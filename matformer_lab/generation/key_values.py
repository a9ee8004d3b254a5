"""The keys and values of a batch: what its prompts share once, and each row's own.

Rows are aligned at their right ends: a row's own tokens begin after its padding, and every row's
next token goes into the same column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from matformer_lab.generation.attention import Split

if TYPE_CHECKING:
    from transformers import Gemma3nForCausalLM


class Pair(NamedTuple):
    """The keys and values of one layer, each [rows, heads, tokens, head_dim]."""

    keys: Tensor
    values: Tensor


@dataclass(frozen=True)
class Shared:
    """The keys and values that all rows share.

    Attributes:
        layers: By the number of the layer, one row each.
        length: Tokens.
    """

    layers: Mapping[int, Pair]
    length: int


class Window(NamedTuple):
    """What a layer type reads and which of it each query may attend to.

    Attributes:
        shared_from: The first shared token that any query attends to.
        own_from: The first own column that any query attends to.
        mask: [rows, 1, queries, shared + own] 0 where a query attends, else a large negative
            number.
    """

    shared_from: int
    own_from: int
    mask: Tensor


@dataclass(frozen=True)
class KeyValues:
    """Keys and values of some rows, for layers that have their own.

    Attributes:
        shared: What all rows share.
        own: By the number of the layer: buffers of the rows' own.
        padding: Columns before each row's first token.
    """

    shared: Shared
    own: Mapping[int, Pair]
    padding: Sequence[int]

    @classmethod
    def empty(
        cls, model: Gemma3nForCausalLM, shared: Shared | None, padding: Sequence[int], columns: int
    ) -> KeyValues:
        """Room for `columns` tokens in each row, besides the shared ones."""
        config, device = model.config, model.model.embed_tokens.weight.device
        shape = (len(padding), config.num_key_value_heads, columns, config.head_dim)
        layers = [
            number
            for number, layer in enumerate(model.model.layers)
            if not layer.self_attn.is_kv_shared_layer
        ]

        def room(shape: tuple[int, ...]) -> Tensor:
            # Zeros: padding is read too, with a weight of 0, and 0 times NaN is NaN.
            return torch.zeros(shape, dtype=model.dtype, device=device)

        if shared is None:
            none = (1, *shape[1:2], 0, shape[3])
            shared = Shared({number: Pair(room(none), room(none)) for number in layers}, 0)
        own = {number: Pair(room(shape), room(shape)) for number in layers}
        return cls(shared, own, padding)

    def rows(self, chosen: slice) -> KeyValues:
        """Some of the rows, in the same memory."""
        own = {number: Pair(*(part[chosen] for part in pair)) for number, pair in self.own.items()}
        return KeyValues(self.shared, own, self.padding[chosen])

    def only(self, rows: Sequence[int]) -> KeyValues:
        """A copy that has no other rows."""
        chosen = torch.tensor(rows, device=self.starts.device)
        own = {
            number: Pair(*(part.index_select(0, chosen) for part in pair))
            for number, pair in self.own.items()
        }
        return KeyValues(self.shared, own, [self.padding[row] for row in rows])

    @cached_property
    def starts(self) -> Tensor:
        """[rows, 1] `padding`, on the device."""
        device = next(iter(self.own.values())).keys.device
        return torch.tensor(self.padding, device=device)[:, None]

    def as_shared(self, length: int) -> Shared:
        """The first `length` tokens of the only row, for other rows to share."""
        layers = {
            number: Pair(pair.keys[:, :, :length], pair.values[:, :, :length])
            for number, pair in self.own.items()
        }
        return Shared(layers, length)

    def window(self, first: int, count: int, sliding: int | None) -> Window:
        """What the queries in columns `first` to `first + count` attend to.

        Args:
            first: The first query's column.
            count: How many queries each row has.
            sliding: How many tokens a query attends to, itself included; None: all before it.
        """
        length, device = self.shared.length, self.starts.device
        query = torch.arange(first, first + count, device=device)
        shared_from, own_from = 0, min(self.padding)
        if sliding is not None:
            # A token's position in the text is its column, less the padding, plus what is shared.
            earliest = length + first - max(self.padding)
            shared_from = min(length, max(0, earliest - sliding + 1))
            own_from = max(own_from, first - sliding + 1)
        own = torch.arange(own_from, first + count, device=device)
        shared = torch.arange(shared_from, length, device=device)
        to_own = (own <= query[:, None]) & (own >= self.starts[..., None])
        to_shared = self.starts.new_ones(len(self.padding), count, len(shared), dtype=torch.bool)
        if sliding is not None:
            to_own &= query[:, None] - own < sliding
            to_shared = (length + query - self.starts)[..., None] - shared < sliding
        allowed = torch.cat([to_shared, to_own], dim=-1)[:, None]
        # A finite number: a row of padding attends to nothing, and must not become NaN.
        mask = torch.zeros(allowed.shape, device=device)
        return Window(
            shared_from, own_from, mask.masked_fill_(~allowed, torch.finfo(torch.float32).min)
        )


@dataclass(frozen=True)
class Writer:
    """What a layer sees as its cache: new keys and values go in, all that is read comes out.

    Attributes:
        held: Where they are kept.
        first: The column of the first new token.
        windows: By layer type.
        layer_types: Of the layers.
    """

    held: KeyValues
    first: int
    windows: Mapping[str, Window]
    layer_types: tuple[str, ...]

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Split, Split]:
        """Keep the new keys and values of a layer, each [rows, heads, tokens, head_dim]."""
        own, shared = self.held.own[layer], self.held.shared.layers[layer]
        stop = self.first + keys.shape[2]
        window = self.windows[self.layer_types[layer]]
        parts = []
        for new, buffer, before in zip((keys, values), own, shared, strict=True):
            buffer[:, :, self.first : stop] = new
            parts.append(
                Split(before[0, :, window.shared_from :], buffer[:, :, window.own_from : stop])
            )
        return parts[0], parts[1]
