"""Requests scored on several slices of one parent, each piece of work done once.

Two kinds of sharing meet here: requests with common prefixes go through the model as one packed
batch (`packing`), and slices with common first layers take a batch through those layers together
(`slice_trie`). A slice's scores are the same bits, whichever slices are scored beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from matformer_lab.scoring.packed_forward import Activations, PackedForward, check_transformers
from matformer_lab.scoring.packing import Batch, Request, pack
from matformer_lab.scoring.per_layer_rows import RowFetcher, Rows, per_layer_table, source_layers
from matformer_lab.scoring.slice_trie import TrieNode, build_trie, walk
from matformer_lab.scoring.token_budget import FEWEST_TOKENS, TokenBudget, budget_for

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import Gemma3nForCausalLM, Gemma3nTextConfig

Answer = tuple[float, bool]
"""Log-probability of the continuation, and whether greedy decoding would produce it."""


def score_slices(
    models: Mapping[str, Gemma3nForCausalLM],
    requests: Sequence[Request],
    *,
    budget: TokenBudget | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, list[Answer]]:
    """Every slice's answer to every request.

    Besides the answers, memory grows with the logarithm of the number of slices, and not at all
    from a sweep's 8 on, which takes larger numbers in passes.

    Args:
        models: Live slices of one parent by name, sharing its memory; or a single model.
        requests: For all slices, in any order.
        budget: Bounds of a batch and of a row in tokens; None chooses by memory. Where the
            accelerator's does not suffice, they are halved until it does.
        progress: Called with (requests done, requests in all) after every batch.

    Raises ValueError for models that do not share their embeddings or whose attention is not
    `sdpa`, and `InputError` for a transformers too old.
    """
    check_transformers()
    for name, model in models.items():
        if (attention := model.config._attn_implementation) != "sdpa":
            # Others read the packed masks differently, or not at all.
            raise ValueError(
                f"model {name!r}: its attention is {attention}, and scoring needs sdpa: "
                'model.set_attn_implementation("sdpa")'
            )
    if len({model.model.embed_tokens.weight.data_ptr() for model in models.values()}) != 1:
        raise ValueError("the models must be live slices of one parent, sharing its embeddings")
    some_model = next(iter(models.values()))
    fetcher = RowFetcher(some_model)
    trie = build_trie({name: layer_keys(model) for name, model in models.items()})
    budget = budget or budget_for(some_model)

    read: list[tuple[np.ndarray, Mapping[str, tuple[Tensor, Tensor]]]] = []
    todo = np.arange(len(requests))
    while len(todo):
        done = np.zeros(len(todo), dtype=bool)
        waiting = [requests[number] for number in todo.tolist()]
        try:
            for batch, rows in fetcher.ahead(batches_of(some_model, waiting, budget)):
                read.append((todo[batch.request], score_batch(models, trie, batch, rows)))
                done[batch.request] = True
                if progress is not None:
                    progress(len(requests) - len(todo) + int(done.sum()), len(requests))
        except torch.OutOfMemoryError:
            if budget.batch_tokens <= FEWEST_TOKENS:
                raise
            budget = budget.halved()
        todo = todo[~done]
    return {
        name: _answers(len(requests), [(owner, *scores[name]) for owner, scores in read])
        for name in models
    }


def batches_of(
    model: Gemma3nForCausalLM, requests: Sequence[Request], budget: TokenBudget
) -> Iterator[Batch]:
    """The requests packed for `model` and all slices of its parent."""
    return pack(
        requests,
        batch_tokens=budget.batch_tokens,
        row_tokens=budget.row_tokens,
        attention_cost=attention_cost(model.config),
    )


def layer_keys(model: Gemma3nForCausalLM) -> list[Hashable]:
    """What each layer computes, as a key: equal keys mean the same memory used in the same way."""
    text = model.model
    return [
        (
            per_layer_table(model).data_ptr(),
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


@torch.inference_mode()
def score_batch(
    models: Mapping[str, Gemma3nForCausalLM], trie: TrieNode, batch: Batch, rows: Rows
) -> dict[str, tuple[Tensor, Tensor]]:
    """(log-probabilities, greedy flags) of the batch's reads on each slice, left on the device."""
    forward = PackedForward(models[trie.below[0]], batch, rows)
    scores: dict[str, tuple[Tensor, Tensor]] = {}

    def advance(here: Activations, name: str, layer: int) -> Activations:
        return forward.advance(models[name], here, layer)

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
