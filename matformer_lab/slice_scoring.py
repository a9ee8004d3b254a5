"""Requests scored on several slices of one parent, each piece of work done once.

Two kinds of sharing meet here: requests with common prefixes go through the model as one packed
batch (`packing`), and slices with common first layers take a batch through those layers together
(`slice_trie`). A slice's scores are the same bits, whichever slices are scored beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from matformer_lab.elastic import KeptPerLayerEmbedding
from matformer_lab.packed_forward import Activations, PackedForward, check_transformers
from matformer_lab.packing import Batch, Request, pack
from matformer_lab.per_layer_rows import RowFetcher, Rows, source_layers
from matformer_lab.slice_trie import TrieNode, build_trie, walk

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import Gemma3nForCausalLM, Gemma3nTextConfig

Answer = tuple[float, bool]
"""Log-probability of the continuation, and whether greedy decoding would produce it."""

FEWEST_TOKENS = 256
MOST_TOKENS = 8192


def score_slices(
    models: Mapping[str, Gemma3nForCausalLM],
    requests: Sequence[Request],
    *,
    batch_tokens: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, list[Answer]]:
    """Every slice's answer to every request.

    Memory does not grow with the number of slices, but for the answers themselves.

    Args:
        models: Live slices of one parent by name, sharing its memory; or a single model.
        requests: For all slices, in any order.
        batch_tokens: Tokens of one forward (see `packing.pack`); None chooses by free memory. Where
            the accelerator's memory does not suffice, it is halved until it does.
        progress: Called with (requests done, requests in all) after every batch.

    Raises ValueError for models that do not share their embeddings, and `InputError` for a
    transformers too old.
    """
    check_transformers()
    if len({model.model.embed_tokens.weight.data_ptr() for model in models.values()}) != 1:
        raise ValueError("the models must be live slices of one parent, sharing its embeddings")
    some_model = next(iter(models.values()))
    config, fetcher = some_model.config, RowFetcher(some_model)
    trie = build_trie({name: layer_keys(model) for name, model in models.items()})
    if batch_tokens is None:
        batch_tokens = min(affordable_tokens(model) for model in models.values())

    read: list[tuple[np.ndarray, Mapping[str, tuple[Tensor, Tensor]]]] = []
    todo = np.arange(len(requests))
    while len(todo):
        done = np.zeros(len(todo), dtype=bool)
        waiting = [requests[number] for number in todo.tolist()]
        try:
            batches = pack(
                waiting, batch_tokens=batch_tokens, attention_cost=attention_cost(config)
            )
            for batch, rows in fetcher.ahead(batches):
                read.append((todo[batch.request], _score_batch(models, trie, batch, rows)))
                done[batch.request] = True
                if progress is not None:
                    progress(len(requests) - len(todo) + int(done.sum()), len(requests))
        except torch.OutOfMemoryError:
            if batch_tokens <= FEWEST_TOKENS:
                raise
            batch_tokens //= 2
        todo = todo[~done]
    return {
        name: _answers(len(requests), [(owner, *scores[name]) for owner, scores in read])
        for name in models
    }


def layer_keys(model: Gemma3nForCausalLM) -> list[Hashable]:
    """What each layer computes, as a key: equal keys mean the same memory used in the same way."""
    text = model.model
    table = text.embed_tokens_per_layer
    memory = table.table if isinstance(table, KeptPerLayerEmbedding) else table.weight
    return [
        (
            memory.data_ptr(),
            source,
            layer.self_attn.layer_type,
            layer.self_attn.is_kv_shared_layer,
            layer.self_attn.store_full_length_kv,
            layer.mlp.activation_sparsity,
            *((weight.data_ptr(), weight.shape) for weight in layer.parameters()),
        )
        for source, layer in zip(source_layers(model), text.layers, strict=True)
    ]


def attention_cost(config: Gemma3nTextConfig) -> float:
    """Work on one pair of tokens in attention relative to the work on a token elsewhere.

    E4B's layer has 27 hidden_size^2 weights: heads * head_dim / 13 hidden_size^2 by FLOPs, of which
    masked attention does about a third as many a second as a matrix product. Widths do not enter,
    so that all slices of a parent are packed alike.
    """
    return config.num_attention_heads * config.head_dim / (4 * config.hidden_size**2)


def affordable_tokens(model: Gemma3nForCausalLM) -> int:
    """How many tokens of activations fit into half of the free memory, within sensible bounds."""
    config, weight = model.config, model.model.embed_tokens.weight
    if weight.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(weight.device)
    else:
        import psutil  # type: ignore[import-untyped]

        free = psutil.virtual_memory().available
    per_token = weight.element_size() * (
        4 * config.altup_num_inputs * config.hidden_size
        + 3 * max(layer.mlp.intermediate_size for layer in model.model.layers)
        + 3 * config.num_hidden_layers * config.hidden_size_per_layer_input  # two batches' rows
        + 2 * MOST_TOKENS  # the two masks
    )
    return int(max(FEWEST_TOKENS, min(MOST_TOKENS, free // 2 // per_token)))


@torch.inference_mode()
def _score_batch(
    models: Mapping[str, Gemma3nForCausalLM], trie: TrieNode, batch: Batch, rows: Rows
) -> dict[str, tuple[Tensor, Tensor]]:
    """(log-probabilities, greedy flags) of the batch's reads on each slice, left on the device."""
    forward = PackedForward(models[trie.below[0]], batch, rows)
    scores: dict[str, tuple[Tensor, Tensor]] = {}

    def advance(here: Activations, node: TrieNode) -> Activations:
        return forward.advance(models[node.below[0]], here, node.start, node.stop)

    def arrive(here: Activations, node: TrieNode) -> None:
        score = forward.read(models[node.ending[0]], here)
        scores.update(dict.fromkeys(node.ending, score))

    walk(trie, forward.begin(), advance, arrive)
    return scores


def _answers(count: int, reads: Sequence[tuple[np.ndarray, Tensor, Tensor]]) -> list[Answer]:
    """The sums over each request's tokens."""
    logprob = np.zeros(count)
    is_greedy = np.ones(count, dtype=bool)
    for owner, logprobs, greedy in reads:
        # Doubles on the host: not every accelerator has them.
        np.add.at(logprob, owner, logprobs.cpu().double().numpy())
        np.logical_and.at(is_greedy, owner, greedy.cpu().numpy())
    return list(zip(logprob.tolist(), is_greedy.tolist(), strict=True))
