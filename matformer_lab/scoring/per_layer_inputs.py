"""Gemma 3n's per-layer inputs, batch by batch: looked up on the host, used on the device.

`embed_tokens_per_layer` is more than half of Gemma 3n's weights and a batch reads little of it, so
it stays on the host. It is read once per batch, for all slices and layers. With an accelerator that
happens on a thread, one batch ahead of the layers, and the inputs travel from pinned memory on a
stream of their own, so that lookup and transfer overlap with the computation of the batch before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast

import torch
from torch import LongTensor, Tensor

from matformer_lab.live.devices import has_own_memory, send
from matformer_lab.live.per_layer_embedding import KeptPerLayerEmbedding

if TYPE_CHECKING:
    from transformers import Gemma3nForCausalLM

    from matformer_lab.scoring.batches.packing import Batch

Item = TypeVar("Item")


@dataclass(frozen=True)
class PerLayerInputs:
    """A batch's lines of the table for all of the parent's layers, perhaps still on their way.

    Get one from `PerLayerInputFetcher`; `wait` gives the values.
    """

    _values: Tensor
    _arrived: torch.Event | None

    def wait(self) -> Tensor:
        """[rows, tokens, source layers, size], scaled, for work queued from now on.

        The values are what transformers' `get_per_layer_inputs` gives. Only the device's current
        stream waits for them, not the host.
        """
        if self._arrived is not None:
            stream = torch.accelerator.current_stream(self._values.device)
            stream.wait_event(self._arrived)
            # They were allocated on the other stream; their memory must not be reused before this
            # stream is done with them.
            self._values.record_stream(stream)
        return self._values


class FetchedBatch(NamedTuple):
    """A batch with its per-layer inputs."""

    batch: Batch
    inputs: PerLayerInputs


class PerLayerInputFetcher:
    """Fetches the per-layer inputs of batches, for `model` and all slices of its parent."""

    def __init__(self, model: Gemma3nForCausalLM) -> None:
        self._text = model.model
        self._device = model.model.embed_tokens.weight.device
        self._stream = torch.Stream(self._device) if has_own_memory(self._device) else None

    def ahead(self, batches: Iterable[Batch]) -> Iterator[FetchedBatch]:
        """Each batch with its inputs; for an accelerator the next batch's are fetched meanwhile."""
        fetched = (FetchedBatch(batch, self.fetch(batch)) for batch in batches)
        return fetched if self._device.type == "cpu" else one_ahead(fetched)

    @torch.inference_mode()
    def fetch(self, batch: Batch) -> PerLayerInputs:
        """Look up the inputs of one batch and send them on their way to the device."""
        text, table = self._text, self._text.embed_tokens_per_layer
        ids = torch.from_numpy(batch.input_ids)
        if not isinstance(table, KeptPerLayerEmbedding):  # a model that owns its table
            there = cast("LongTensor", send(ids, self._device))
            return PerLayerInputs(text.get_per_layer_inputs(there), None)
        # As in `get_per_layer_inputs`: ids beyond the table read its line 0.
        ids = torch.where(ids < text.config.vocab_size_per_layer_input, ids, 0)
        if self._stream is None:
            return PerLayerInputs(self._sent(table.look_up(ids), table), None)
        with self._stream:  # the lookup too: the table may be on the device
            values = self._sent(table.look_up(ids), table)
            return PerLayerInputs(values, self._stream.record_event())

    def _sent(self, values: Tensor, table: KeptPerLayerEmbedding) -> Tensor:
        return send(values, self._device).to(table.dtype).mul_(table.scale)


def one_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """Yield `items`, making each one on a thread while the caller works on the one before."""
    end = object()
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, items, end)
            yield item  # type: ignore[misc]


def source_layers(model: Gemma3nForCausalLM) -> Sequence[int]:
    """For each layer of `model`, its index in the per-layer tables that the model reads."""
    table = model.model.embed_tokens_per_layer
    if isinstance(table, KeptPerLayerEmbedding):
        return table.kept
    return range(model.config.num_hidden_layers)


def per_layer_table(model: Gemma3nForCausalLM) -> Tensor:
    """[vocabulary, layers * size] `embed_tokens_per_layer` as the model reads it."""
    table = model.model.embed_tokens_per_layer
    return table.table if isinstance(table, KeptPerLayerEmbedding) else table.weight
