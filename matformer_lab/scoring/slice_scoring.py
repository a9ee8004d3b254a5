"""Scores requests on several slices of one parent, doing each piece of work once.

Two kinds of sharing meet here: requests with common prefixes go through the model as one packed
batch (`packing`), and slices with common first layers take a batch through those layers together
(`slice_trie`). A slice's scores are the same bits whichever slices are scored beside it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import torch

from matformer_lab.common.errors import InputError
from matformer_lab.live.mapped_weights import UnreadableWeightsError
from matformer_lab.scoring.attention.tree_attention import by_tree_attention
from matformer_lab.scoring.batches.one_row import pack_one_row
from matformer_lab.scoring.batches.packing import Batch, Request, pack
from matformer_lab.scoring.batches.token_budget import FEWEST_TOKENS, TokenBudget, budget_for
from matformer_lab.scoring.compiled_layers import compiling, why_not_compiled
from matformer_lab.scoring.compiler_faults import NotCompiledError, check_rounding, compiler_errors
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
_CHECKED: Final = TokenBudget(2048, 2048)
"""How these are computed; halved where memory is short, as elsewhere."""


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
        compiled: Without a budget: whether to compile the layers. Where that does not work, or the
            first batch's answers are wrong, a warning says so, and they run as they are.
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
    journal = journal or Journal()
    some_model = next(iter(models.values()))
    scoring = _Pass(models, requests, progress, journal)
    try:
        scoring.run(journal.begin(budget or budget_for(some_model, compiled=compiled)))
    except BaseException as error:
        keep_what_was_scored(journal, error)
        raise
    return {name: answers_of(name, len(requests), scoring.read) for name in models}


def keep_what_was_scored(journal: Journal, error: BaseException) -> None:
    """Write what a pass has when it fails; of weights that cannot be read, say that it is kept.

    Raises:
        InputError: In the place of `UnreadableWeightsError`.
    """
    journal.flush()
    if isinstance(error, UnreadableWeightsError) and journal.keeps:
        raise InputError(f"{error}; what was scored is kept: run again to continue") from None


class _Pass:
    """Requests on their way through the slices, batch after batch."""

    def __init__(
        self,
        models: Mapping[str, Gemma3nForCausalLM],
        requests: Sequence[Request],
        progress: Callable[[float, int], None],
        journal: Journal,
    ) -> None:
        self.read: list[BatchScores] = []
        self._models = models
        self._some_model = next(iter(models.values()))
        self._requests = requests
        self._progress = progress
        self._journal = journal
        self._trie = build_trie({name: layer_keys(model) for name, model in models.items()})
        self._fetcher = PerLayerInputFetcher(self._some_model)
        self._packed = np.arange(len(requests))  # the requests that the batches at hand hold
        self._done = np.zeros(len(requests), dtype=bool)  # which of these are read
        self._furthest = 0.0

    def run(self, budget: TokenBudget) -> None:
        """Read all requests: what the journal has of them, then the rest."""
        while len(self._packed):
            waiting = [self._requests[number] for number in self._packed.tolist()]
            batches = batches_of(self._some_model, waiting, budget)
            # In this order: zip takes no batch once there is no record.
            for scores, batch in zip(self._journal.recorded(), batches, strict=False):
                self._keep(batch, scores, budget)
            if (changed := self._journal.changed()) is not None:
                if changed.mode != budget.mode:
                    _warn_not_compiled("an earlier run of this pass could not compile them")
            else:
                changed = self._compute(batches, budget)
            budget = changed or budget
            self._packed = self._packed[~self._done]
            self._done = np.zeros(len(self._packed), dtype=bool)

    def _compute(self, batches: Iterator[Batch], budget: TokenBudget) -> TokenBudget | None:
        """Score batches; the budget to go on with, where they cannot all be scored with this."""
        is_checked = budget.mode != "compiled"
        try:
            if not is_checked and (missing := why_not_compiled(self._some_model.device)):
                raise NotCompiledError(missing)
            for batch, inputs in self._fetcher.ahead(batches):
                show = self._shown(batch)
                scores = score_batch(self._models, self._trie, batch, inputs, show, budget)
                if not is_checked:
                    self._check_compiled(batch, scores)
                    is_checked = True
                self._journal.add(scores)
                self._keep(batch, scores, budget)
            return None
        except torch.OutOfMemoryError:
            if budget.batch_tokens <= FEWEST_TOKENS:
                raise
            changed = budget.halved()
        except NotCompiledError as error:
            _warn_not_compiled(str(error))
            changed = budget.in_rows()
        self._journal.add_change(changed)
        return changed

    def _keep(self, batch: Batch, scores: Mapping[str, TargetScores], budget: TokenBudget) -> None:
        self._journal.computed_with(budget)
        self.read.append(BatchScores(self._packed[batch.request], scores))
        self._done[batch.request] = True

    def _shown(self, batch: Batch) -> Callable[[float], None]:
        """What shows how far a batch is."""
        before = len(self._requests) - int((~self._done).sum())
        here = len(np.unique(batch.request))

        def advance(share: float) -> None:
            # A batch may run out of memory.
            self._furthest = max(self._furthest, before + share * here)
            self._progress(self._furthest, len(self._requests))

        return advance

    def _check_compiled(self, batch: Batch, scores: Mapping[str, TargetScores]) -> None:
        """Compare some answers of the first batch with those of the layers as they are.

        A compiler that works wrongly says nothing, and its scores look right.

        Raises:
            NotCompiledError: They differ by more than rounding.
        """
        name, model = max(
            self._models.items(), key=lambda named: named[1].config.num_hidden_layers
        )  # it has the most kinds of layers
        sample = np.unique(batch.request)[:_CHECKED_REQUESTS]
        requests = [self._requests[number] for number in self._packed[sample].tolist()]
        try:
            usual = score_slices({name: model}, requests, budget=_CHECKED)[name]
        except torch.OutOfMemoryError:
            warnings.warn(
                "too little memory to compare compiled layers with the layers as they are",
                stacklevel=2,
            )
            return
        found = answers_of(name, len(self._packed), [BatchScores(batch.request, scores)])
        check_rounding(
            [found[number].logprob for number in sample.tolist()],
            [answer.logprob for answer in usual],
            [len(request.targets) for request in requests],
            model.dtype,
        )


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
    mode = "rows" if budget is None else budget.mode
    faults = compiler_errors if mode == "compiled" else nullcontext
    scores: dict[str, TargetScores] = {}
    work, done = _tokens_through_layers(models, trie, batch), 0

    def advance(here: Activations, name: str, layer: int) -> Activations:
        nonlocal done
        layers = models[name].model.layers
        if layer + 1 < len(layers):
            read_ahead.ask_for(layers[layer + 1])
        with faults():
            there = forward.advance(models[name], here, layer)
        done += there.hidden[0, ..., 0].numel()
        progress(min(1.0, done / work))
        return there

    def arrive(here: Activations, node: TrieNode) -> None:
        with faults():
            score = forward.read(models[node.ending[0]], here)
        scores.update(dict.fromkeys(node.ending, score))

    with ReadAhead(models[trie.below[0]].model.layers[0]) as read_ahead, ExitStack() as stack:
        if mode != "rows":
            stack.enter_context(by_tree_attention(models.values()))
            stack.enter_context(compiling())
        walk(trie, forward.begin(), advance, arrive)
    return scores


def _warn_not_compiled(why: str) -> None:
    warnings.warn(f"layers are not compiled, and scoring is slower: {why}", stacklevel=2)


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
