"""How well slices agree with their parent on a text: token by token, without right answers.

The parent takes each batch through its layers with the slices, sharing what they share. Its
distribution at a token is compared with each slice's a bounded number of logits at a time, so that
no two vocabularies of logits of a whole batch are held.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from matformer_lab.scoring.batches.packing import Request
from matformer_lab.scoring.batches.token_budget import FEWEST_TOKENS, TokenBudget, budget_for
from matformer_lab.scoring.memory import LOGITS_AT_ONCE
from matformer_lab.scoring.packed_forward import Activations, PackedForward, check_transformers
from matformer_lab.scoring.per_layer_inputs import PerLayerInputFetcher
from matformer_lab.scoring.slice_scoring import batches_of, layer_keys
from matformer_lab.scoring.slice_trie import TrieNode, build_trie, walk
from matformer_lab.statistics.outcomes import Floats

if TYPE_CHECKING:
    from transformers import Gemma3nForCausalLM

    from matformer_lab.scoring.journal import Journal

_PARENT: Final = "\0parent"
"""A name that no slice has."""


class Agreement(NamedTuple):
    """How a slice agrees with the parent on each of several texts.

    Attributes:
        kl: [texts] mean over a text's tokens of the Kullback-Leibler divergence of the slice's next
            token from the parent's, in nats; 0 for the parent.
        top1: [texts] share of tokens for which both hold the same next token likeliest.
    """

    kl: Floats
    top1: Floats


@torch.inference_mode()
def agreement(
    models: Mapping[str, Gemma3nForCausalLM],
    parent: Gemma3nForCausalLM,
    requests: Sequence[Request],
    *,
    budget: TokenBudget | None = None,
    progress: Callable[[int, int], None] | None = None,
    journal: Journal | None = None,
) -> dict[str, Agreement]:
    """Compare slices with their parent.

    Args:
        models: Live slices by name.
        parent: The whole parent, live, sharing their memory.
        requests: The texts; every target is a token to agree on.
        budget: As for `score_slices`; in rows.
        progress: Called with (texts done, texts in all) after every batch.
        journal: Told what the texts are computed with; it keeps no batches.

    Returns:
        For each name, a number for each text in the order of `requests`.

    Raises:
        InputError: For transformers older than 5.6.
        torch.OutOfMemoryError: When even the smallest batch does not fit.
    """
    check_transformers()
    everyone = {_PARENT: parent, **models}
    trie = build_trie({name: layer_keys(model) for name, model in everyone.items()})
    fetcher = PerLayerInputFetcher(parent)
    budget = budget or budget_for(parent)
    sums = {name: np.zeros((2, len(requests))) for name in models}
    counts = np.zeros(len(requests))
    todo = np.arange(len(requests))
    while len(todo):
        done = np.zeros(len(todo), dtype=bool)
        batches = batches_of(parent, [requests[number] for number in todo.tolist()], budget)
        try:
            for batch, inputs in fetcher.ahead(batches):
                found = _of_batch(everyone, trie, PackedForward(parent, batch, inputs, budget))
                texts = todo[batch.request]
                for name, values in found.items():
                    for total, of_tokens in zip(sums[name], values[:, batch.slot], strict=True):
                        np.add.at(total, texts, of_tokens)
                np.add.at(counts, texts, 1)
                done[batch.request] = True
                if journal is not None:
                    journal.computed_with(budget)
                if progress is not None:
                    progress(len(requests) - len(todo) + int(done.sum()), len(requests))
        except torch.OutOfMemoryError:
            if budget.batch_tokens <= FEWEST_TOKENS:
                raise
            budget = budget.halved()
        todo = todo[~done]
    return {name: Agreement(*(both / counts)) for name, both in sums.items()}


def _of_batch(
    everyone: Mapping[str, Gemma3nForCausalLM], trie: TrieNode, forward: PackedForward
) -> dict[str, Floats]:
    """For each slice, `_compared` of a batch."""
    finals: dict[str, Tensor] = {}

    def advance(here: Activations, name: str, layer: int) -> Activations:
        return forward.advance(everyone[name], here, layer)

    def arrive(here: Activations, node: TrieNode) -> None:
        final = forward.scored(everyone[node.ending[0]], here)
        finals.update(dict.fromkeys(node.ending, final))

    walk(trie, forward.begin(), advance, arrive)
    of_parent = finals.pop(_PARENT)
    return {name: _compared(everyone[name], of_parent, final) for name, final in finals.items()}


def _compared(model: Gemma3nForCausalLM, parent: Tensor, slice_: Tensor) -> Floats:
    """[2, tokens] divergence and agreement at each scored token.

    Args:
        model: Any of the models: they share the LM head.
        parent: [tokens, hidden_size] the LM head's input for the parent.
        slice_: Likewise for the slice.
    """
    step = max(1, LOGITS_AT_ONCE // (2 * model.config.vocab_size))
    parts = []
    for first in range(0, len(parent), step):
        p, q = (_log_probabilities(model, each[first : first + step]) for each in (parent, slice_))
        divergence = (p.exp() * (p - q)).sum(dim=-1)
        same = p.argmax(dim=-1) == q.argmax(dim=-1)
        parts.append(torch.stack([divergence, same.float()]).cpu().double().numpy())
    found: Floats = np.concatenate(parts, axis=1)
    return found


def _log_probabilities(model: Gemma3nForCausalLM, final: Tensor) -> Tensor:
    """[tokens, vocab_size] in fp32, as `packed_forward` computes them."""
    softcap = model.config.final_logit_softcapping
    logits = model.lm_head(final).div_(softcap).tanh_().mul_(softcap)
    return torch.log_softmax(logits, dim=-1, dtype=torch.float32)
