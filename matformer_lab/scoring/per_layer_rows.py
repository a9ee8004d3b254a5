"""Rows of `embed_tokens_per_layer`, batch after batch: looked up on the host, used on the device.

The table is more than half of Gemma 3n's weights and a batch reads little of it, so it stays on the
host. A batch's rows are looked up once, for all slices and layers. With an accelerator that happens
on a thread, one batch ahead of the layers, and the rows travel from pinned memory on a stream of
their own, so that looking up and travelling take place while the batch before is computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast

import torch
from torch import LongTensor, Tensor

from matformer_lab.live.devices import has_own_memory, send
from matformer_lab.live.per_layer_embedding import KeptPerLayerEmbedding
from matformer_lab.scoring.packing import Batch

if TYPE_CHECKING:
    from transformers import Gemma3nForCausalLM

Item = TypeVar("Item")


@dataclass(frozen=True)
class Rows:
    """[rows, tokens, source layers, size] of a batch, scaled; perhaps still on their way."""

    _values: Tensor
    _arrived: torch.Event | None

    def wait(self) -> Tensor:
        """The rows, for work queued from now on; the host itself does not wait."""
        if self._arrived is not None:
            stream = torch.accelerator.current_stream(self._values.device)
            stream.wait_event(self._arrived)
            # They were allocated for the other stream: not to be reused before this one is done.
            self._values.record_stream(stream)
        return self._values


class RowFetcher:
    """Fetches the rows of batches for `model` and all slices of its parent."""

    def __init__(self, model: Gemma3nForCausalLM) -> None:
        self._text = model.model
        self._device = model.model.embed_tokens.weight.device
        self._stream = torch.Stream(self._device) if has_own_memory(self._device) else None

    def ahead(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Rows]]:
        """Each batch with its rows. Where an accelerator computes, the next ones are under way."""
        fetched = ((batch, self.fetch(batch)) for batch in batches)
        return fetched if self._device.type == "cpu" else one_ahead(fetched)

    @torch.inference_mode()
    def fetch(self, batch: Batch) -> Rows:
        """The rows of one batch, sent on their way."""
        text, table = self._text, self._text.embed_tokens_per_layer
        ids = torch.from_numpy(batch.input_ids)
        if not isinstance(table, KeptPerLayerEmbedding):  # a model that owns its table
            there = cast("LongTensor", send(ids, self._device))
            return Rows(text.get_per_layer_inputs(there), None)
        # As in `get_per_layer_inputs`: other tokens than these have no rows of their own.
        ids = torch.where(ids < text.config.vocab_size_per_layer_input, ids, 0)
        if self._stream is None:
            return Rows(self._sent(table.look_up(ids), table), None)
        with self._stream:  # the look-up too: the table may lie on the device
            return Rows(self._sent(table.look_up(ids), table), self._stream.record_event())

    def _sent(self, rows: Tensor, table: KeptPerLayerEmbedding) -> Tensor:
        return send(rows, self._device).to(table.dtype).mul_(table.scale)


def one_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """`items`, each made on a thread while the caller works on the one before."""
    end = object()
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, items, end)
            yield item  # type: ignore[misc]


def source_layers(model: Gemma3nForCausalLM) -> Sequence[int]:
    """For each layer of `model`, its place in the per-layer tables that the model reads."""
    table = model.model.embed_tokens_per_layer
    if isinstance(table, KeptPerLayerEmbedding):
        return table.kept
    return range(model.config.num_hidden_layers)


def per_layer_table(model: Gemma3nForCausalLM) -> Tensor:
    """[vocabulary, layers * size] `embed_tokens_per_layer` as the model reads it."""
    table = model.model.embed_tokens_per_layer
    return table.table if isinstance(table, KeptPerLayerEmbedding) else table.weight
