"""Scores requests on several slices of one parent, doing each piece of work once.

Two kinds of sharing meet here: requests with common prefixes go through the model as one packed
batch (`packing`), and slices with common first layers take a batch through those layers together
(`slice_trie`). A slice's scores are the same bits whichever slices are scored beside it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import torch

from matformer_lab.common.errors import InputError, one_line
from matformer_lab.live.mapped_weights import UnreadableWeightsError
from matformer_lab.scoring.attention.tree_attention import by_tree_attention
from matformer_lab.scoring.batches.one_row import pack_one_row
from matformer_lab.scoring.batches.packing import Batch, Request, pack
from matformer_lab.scoring.batches.token_budget import FEWEST_TOKENS, TokenBudget, budget_for
from matformer_lab.scoring.compiled_layers import compiling, why_not_compiled
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


_CHECKED_REQUESTS: Final = 16
"""Of the first compiled batch, answers that are compared with those of the layers as they are."""
_CHECKED_TOKENS: Final = 2048
"""Tokens of a batch of these."""
_ROUNDING: Final = {torch.float32: 1e-4, torch.float64: 1e-6}
"""How far a token's log-probability may be off, at the median."""
_ROUNDING_OF_16_BITS: Final = 0.05
"""The same: far below what a wrong mask does."""


class Answer(NamedTuple):
    """A model's answer to a log-likelihood request; equal to lm-eval's plain tuple."""

    logprob: float
    """Log-probability of the continuation (natural logarithm)."""
    is_greedy: bool
    """Whether greedy decoding would produce the continuation."""


class NotCompiledError(Exception):
    """A compiled batch failed, and not for lack of memory."""


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
    compiled: bool = False,
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
        compiled: Without a budget: whether to compile the layers. Where that does not work, a
            warning says so, and they run as they are.
        progress: Called with (requests done, requests in all) after every layer; a batch that is
            half done counts as half of its requests.
        journal: Keeps what is computed, and gives back what an earlier run computed of the same
            slices and requests.

    Returns:
        For each name, one answer per request, in the order of `requests`.

    Raises:
        ValueError: For models that do not share their embeddings, or whose attention is not `sdpa`.
        InputError: For transformers older than 5.6, and weights that cannot be read any more.
        torch.OutOfMemoryError: When even the smallest batch does not fit.
    """
    _check(models)
    some_model = next(iter(models.values()))
    fetcher = PerLayerInputFetcher(some_model)
    trie = build_trie({name: layer_keys(model) for name, model in models.items()})
    journal = journal or Journal()
    budget = journal.begin(_first_budget(some_model, budget, compiled=compiled))

    furthest = 0.0

    def score(batch: Batch, inputs: PerLayerInputs, before: int) -> Mapping[str, TargetScores]:
        here = len(np.unique(batch.request))

        def advance(share: float) -> None:
            nonlocal furthest
            furthest = max(furthest, before + share * here)  # a batch may run out of memory
            progress(furthest, len(requests))

        return score_batch(models, trie, batch, inputs, advance, budget)

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
            if (changed := journal.changed()) is not None:
                budget, todo = changed, todo[~done]
                continue
            try:
                for batch, inputs in fetcher.ahead(batches):
                    scores = score(batch, inputs, len(requests) - int((~done).sum()))
                    if budget.mode == "compiled" and not done.any():
                        _check_compiled(models, waiting, BatchScores(batch.request, scores), budget)
                    journal.add(scores)
                    read.append(BatchScores(todo[batch.request], scores))
                    done[batch.request] = True
            except torch.OutOfMemoryError:
                if budget.batch_tokens <= FEWEST_TOKENS:
                    raise
                budget = budget.halved()
                journal.add_change(budget)
            except NotCompiledError as error:
                _warn_not_compiled(str(error))
                budget = budget.in_rows()
                journal.add_change(budget)
            todo = todo[~done]
    except BaseException as error:
        journal.flush()
        if isinstance(error, UnreadableWeightsError) and journal.keeps:
            raise InputError(f"{error}; what was scored is kept: run again to continue") from None
        raise
    return {name: answers_of(name, len(requests), read) for name in models}


def _check(models: Mapping[str, Gemma3nForCausalLM]) -> None:
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


def _first_budget(
    model: Gemma3nForCausalLM, budget: TokenBudget | None, *, compiled: bool
) -> TokenBudget:
    """The budget to begin with: one that this machine can compile for, if it asks for that."""
    if budget is None:
        budget = budget_for(model, compiled=compiled)
    missing = why_not_compiled(model.device) if budget.mode == "compiled" else None
    if missing is None:
        return budget
    _warn_not_compiled(missing)
    return budget_for(model)


def batches_of(
    model: Gemma3nForCausalLM, requests: Sequence[Request], budget: TokenBudget
) -> Iterator[Batch]:
    """The requests packed for `model` and all slices of its parent."""
    if budget.mode != "rows":
        return pack_one_row(requests, batch_tokens=budget.batch_tokens)
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

    By FLOPs the ratio is 2 * heads * head_dim / (`LAYER_WEIGHTS` * hidden_size^2), but masked
    attention does about a third as many FLOPs per second as a matrix product.
    """
    return config.num_attention_heads * config.head_dim / (4 * config.hidden_size**2)


@torch.inference_mode()
def score_batch(
    models: Mapping[str, Gemma3nForCausalLM],
    trie: TrieNode,
    batch: Batch,
    inputs: PerLayerInputs,
    progress: Callable[[float], None] = lambda _: None,
    budget: TokenBudget | None = None,
) -> dict[str, TargetScores]:
    """Each slice's predictions of the batch's targets, left on the device.

    Args:
        models: Live slices of one parent by name.
        trie: Of the same slices, over their `layer_keys`.
        batch: From `batches_of`.
        inputs: The batch's, from `PerLayerInputFetcher`.
        progress: Called with the fraction of the batch's work done after every layer.
        budget: As for `PackedForward`.

    Raises:
        NotCompiledError: When compiled layers fail.
    """
    forward = PackedForward(models[trie.below[0]], batch, inputs, budget)
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

    with ReadAhead(models[trie.below[0]].model.layers[0]) as read_ahead, ExitStack() as stack:
        if budget is not None and budget.mode != "rows":
            stack.enter_context(by_tree_attention(models.values()))
            stack.enter_context(compiling())
        if budget is not None and budget.mode == "compiled":
            stack.enter_context(_compiler_errors())
        walk(trie, forward.begin(), advance, arrive)
    return scores


@contextmanager
def _compiler_errors() -> Iterator[None]:
    """Tell what a compiler fails at from a lack of memory, which it may hide in its own error."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        inner: BaseException | None = error
        while inner is not None:
            if isinstance(inner, torch.OutOfMemoryError):
                raise inner from None
            inner = inner.__cause__ or inner.__context__
        raise NotCompiledError(f"{type(error).__name__}: {one_line(error)[:300]}") from error


def _check_compiled(
    models: Mapping[str, Gemma3nForCausalLM],
    requests: Sequence[Request],
    first: BatchScores,
    budget: TokenBudget,
) -> None:
    """Compare some of the first batch's answers with those of the layers as they are.

    A compiler that works wrongly says nothing, and its scores look right.

    Raises:
        NotCompiledError: They differ by more than rounding.
    """
    name, model = next(iter(models.items()))
    sample = np.unique(first.request)[:_CHECKED_REQUESTS].tolist()
    found = answers_of(name, len(requests), [first])
    few = replace(budget.in_rows(), batch_tokens=min(budget.batch_tokens, _CHECKED_TOKENS))
    usual = score_slices({name: model}, [requests[each] for each in sample], budget=few)[name]
    apart = [
        abs(found[each].logprob - answer.logprob) / max(1, len(requests[each].targets))
        for each, answer in zip(sample, usual, strict=True)
    ]
    most = _ROUNDING.get(model.dtype, _ROUNDING_OF_16_BITS)
    if not float(np.median(apart)) <= most:  # NaN too
        raise NotCompiledError(
            f"their log-probabilities were off by {np.median(apart):.2g} a token, and rounding "
            f"explains {most:g}"
        )


def _warn_not_compiled(why: str) -> None:
    warnings.warn(f"layers are not compiled, and scoring is slower: {why}", stacklevel=3)


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
