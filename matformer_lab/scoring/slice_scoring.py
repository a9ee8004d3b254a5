"""Scores requests on several slices of one parent, doing each piece of work once.

Two kinds of sharing meet here: requests with common prefixes go through the model as one packed
batch (`packing`), and slices with common first layers take a batch through those layers together
(`slice_trie`). A slice's scores are the same bits whichever slices are scored beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from matformer_lab.scoring.batches.packing import Batch, Request, pack
from matformer_lab.scoring.batches.token_budget import FEWEST_TOKENS, TokenBudget, budget_for
from matformer_lab.scoring.journal import Journal
from matformer_lab.scoring.lm_head import TargetScores
from matformer_lab.scoring.packed_forward import Activations, PackedForward, check_transformers
from matformer_lab.scoring.per_layer_inputs import (
    PerLayerInputFetcher,
    PerLayerInputs,
    per_layer_table,
    source_layers,
)
from matformer_lab.scoring.read_ahead import ReadAhead
from matformer_lab.scoring.slice_trie import TrieNode, build_trie, walk

if TYPE_CHECKING:
    from transformers import Gemma3nForCausalLM, Gemma3nTextConfig


class Answer(NamedTuple):
    """A model's answer to a log-likelihood request; equal to lm-eval's plain tuple."""

    logprob: float
    """Log-probability of the continuation (natural logarithm)."""
    is_greedy: bool
    """Whether greedy decoding would produce the continuation."""


class BatchScores(NamedTuple):
    request: np.ndarray
    """[reads] the request that each read counts towards."""
    scores: Mapping[str, TargetScores]
    """By slice."""


def score_slices(
    models: Mapping[str, Gemma3nForCausalLM],
    requests: Sequence[Request],
    *,
    budget: TokenBudget | None = None,
    progress: Callable[[float, int], None] = lambda _done, _count: None,
    journal: Journal | None = None,
) -> dict[str, list[Answer]]:
    """Score every request on every slice.

    Besides the answers, memory grows with the logarithm of the number of slices. A sweep takes at
    most 8 at a time.

    Args:
        models: Live slices of one parent by name, sharing its memory; or a single model.
        requests: For all slices, in any order.
        budget: Bounds of a batch and of a row in tokens; None chooses by free memory. An
            accelerator that runs out of memory halves them until they fit.
        progress: Called with (requests done, requests in all) after every layer; a batch that is
            half done counts as half of its requests.
        journal: Keeps what is computed, and gives back what an earlier run computed of the same
            slices and requests.

    Returns:
        For each name, one answer per request, in the order of `requests`.

    Raises:
        ValueError: For models that do not share their embeddings, or whose attention is not `sdpa`.
        InputError: For transformers older than 5.6.
        torch.OutOfMemoryError: When even the smallest batch does not fit.
    """
    check_transformers()
    for name, model in models.items():
        if (attention := model.config._attn_implementation) != "sdpa":
            # Other implementations read the packed masks differently, or not at all.
            raise ValueError(
                f"model {name!r}: its attention is {attention}, and scoring needs sdpa: "
                'model.set_attn_implementation("sdpa")'
            )
    if len({model.model.embed_tokens.weight.data_ptr() for model in models.values()}) != 1:
        raise ValueError("the models must be live slices of one parent, sharing its embeddings")
    some_model = next(iter(models.values()))
    fetcher = PerLayerInputFetcher(some_model)
    trie = build_trie({name: layer_keys(model) for name, model in models.items()})
    journal = journal or Journal()
    budget = journal.begin(budget or budget_for(some_model))

    furthest = 0.0

    def score(batch: Batch, inputs: PerLayerInputs, before: int) -> Mapping[str, TargetScores]:
        here = len(np.unique(batch.request))

        def advance(share: float) -> None:
            nonlocal furthest
            furthest = max(furthest, before + share * here)  # a batch may run out of memory
            progress(furthest, len(requests))

        return score_batch(models, trie, batch, inputs, advance)

    read: list[BatchScores] = []
    todo = np.arange(len(requests))
    try:
        while len(todo):
            done = np.zeros(len(todo), dtype=bool)
            waiting = [requests[number] for number in todo.tolist()]
            batches = batches_of(some_model, waiting, budget)
            # In this order: zip takes no batch once there is no record.
            for scores, batch in zip(journal.recorded(), batches, strict=False):
                read.append(BatchScores(todo[batch.request], scores))
                done[batch.request] = True
            if journal.ran_out_of_memory():
                budget, todo = budget.halved(), todo[~done]
                continue
            try:
                for batch, inputs in fetcher.ahead(batches):
                    scores = score(batch, inputs, len(requests) - int((~done).sum()))
                    journal.add(scores)
                    read.append(BatchScores(todo[batch.request], scores))
                    done[batch.request] = True
            except torch.OutOfMemoryError:
                if budget.batch_tokens <= FEWEST_TOKENS:
                    raise
                journal.add_halving()
                budget = budget.halved()
            todo = todo[~done]
    except BaseException:
        journal.flush()
        raise
    return {name: answers_of(name, len(requests), read) for name in models}


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
    """A key for what each layer computes: equal keys mean the same memory, used in the same way."""
    text = model.model
    return [
        (
            per_layer_table(model).data_ptr(),
            source,
            layer.self_attn.layer_type,
            layer.self_attn.is_kv_shared_layer,
            layer.self_attn.store_full_length_kv,
            layer.mlp.activation_sparsity,
            *((weight.data_ptr(), weight.shape) for weight in layer.state_dict().values()),
        )
        for source, layer in zip(source_layers(model), text.layers, strict=True)
    ]


def attention_cost(config: Gemma3nTextConfig) -> float:
    """Work on one pair of tokens in attention, relative to the work on one token elsewhere.

    E4B's layer has 27 hidden_size^2 weights. By FLOPs the ratio is
    heads * head_dim / (13 * hidden_size^2), but masked attention does about a third as many FLOPs
    per second as a matrix product. FFN widths do not enter, so that all slices of a parent are
    packed alike.
    """
    return config.num_attention_heads * config.head_dim / (4 * config.hidden_size**2)


@torch.inference_mode()
def score_batch(
    models: Mapping[str, Gemma3nForCausalLM],
    trie: TrieNode,
    batch: Batch,
    inputs: PerLayerInputs,
    progress: Callable[[float], None] = lambda _: None,
) -> dict[str, TargetScores]:
    """Each slice's predictions of the batch's targets, left on the device.

    Args:
        models: Live slices of one parent by name.
        trie: Of the same slices, over their `layer_keys`.
        batch: From `batches_of`.
        inputs: The batch's, from `PerLayerInputFetcher`.
        progress: Called with the fraction of the batch's work done after every layer.
    """
    forward = PackedForward(models[trie.below[0]], batch, inputs)
    scores: dict[str, TargetScores] = {}
    work, done = _tokens_through_layers(models, trie, batch), 0

    def advance(here: Activations, name: str, layer: int) -> Activations:
        nonlocal done
        layers = models[name].model.layers
        if layer + 1 < len(layers):
            read_ahead.ask_for(layers[layer + 1])
        there = forward.advance(models[name], here, layer)
        done += there.hidden[0, ..., 0].numel()
        progress(min(1.0, done / work))
        return there

    def arrive(here: Activations, node: TrieNode) -> None:
        score = forward.read(models[node.ending[0]], here)
        scores.update(dict.fromkeys(node.ending, score))

    with ReadAhead(models[trie.below[0]].model.layers[0]) as read_ahead:
        walk(trie, forward.begin(), advance, arrive)
    return scores


def _tokens_through_layers(
    models: Mapping[str, Gemma3nForCausalLM], node: TrieNode, batch: Batch
) -> int:
    """Tokens times layers of a walk: layers that reuse K/V compute the scored tokens alone."""
    layers = models[node.below[0]].model.layers
    counts = (
        (batch.scored if layers[index].self_attn.is_kv_shared_layer else batch.input_ids).size
        for index in range(node.start, node.stop)
    )
    return sum(counts) + sum(
        _tokens_through_layers(models, child, batch) for child in node.children
    )


def answers_of(name: str, count: int, read: Sequence[BatchScores]) -> list[Answer]:
    """What slice `name` answers to `count` requests: sums over each request's tokens."""
    logprob = np.zeros(count)
    is_greedy = np.ones(count, dtype=bool)
    for batch in read:
        scores = batch.scores[name]
        # Doubles on the host: not every accelerator has them.
        np.add.at(logprob, batch.request, scores.logprob.cpu().double().numpy())
        np.logical_and.at(is_greedy, batch.request, scores.is_greedy.cpu().numpy())
    return [Answer(*each) for each in zip(logprob.tolist(), is_greedy.tolist(), strict=True)]
