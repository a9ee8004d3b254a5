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
from matformer_lab.scoring.batches.token_budget import TokenBudget, budget_for
from matformer_lab.scoring.memory import LOGITS_AT_ONCE
from matformer_lab.scoring.packed_forward import Activations, PackedForward, check_transformers
from matformer_lab.scoring.per_layer_inputs import PerLayerInputFetcher
from matformer_lab.scoring.slice_scoring import batches_of, layer_keys
from matformer_lab.scoring.slice_trie import TrieNode, build_trie, walk
from matformer_lab.statistics.outcomes import Floats

if TYPE_CHECKING:
    from transformers import Gemma3nForCausalLM

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
) -> dict[str, Agreement]:
    """Compare slices with their parent.

    Args:
        models: Live slices by name.
        parent: The whole parent, live, sharing their memory.
        requests: The texts; every target is a token to agree on.
        budget: As for `score_slices`.
        progress: Called with (texts done, texts in all) after every batch.

    Returns:
        For each name, a number for each text in the order of `requests`.

    Raises:
        InputError: For transformers older than 5.6.
    """
    check_transformers()
    everyone = {_PARENT: parent, **models}
    trie = build_trie({name: layer_keys(model) for name, model in everyone.items()})
    fetcher = PerLayerInputFetcher(parent)
    sums = {name: np.zeros((2, len(requests))) for name in models}
    counts = np.zeros(len(requests))
    done = np.zeros(len(requests), dtype=bool)
    batches = batches_of(parent, requests, budget or budget_for(parent))
    for batch, inputs in fetcher.ahead(batches):
        forward = PackedForward(parent, batch, inputs)
        finals: dict[str, Tensor] = {}

        def advance(
            here: Activations, name: str, layer: int, forward: PackedForward = forward
        ) -> Activations:
            return forward.advance(everyone[name], here, layer)

        def arrive(
            here: Activations,
            node: TrieNode,
            forward: PackedForward = forward,
            finals: dict[str, Tensor] = finals,
        ) -> None:
            final = forward.scored(everyone[node.ending[0]], here)
            finals.update(dict.fromkeys(node.ending, final))

        walk(trie, forward.begin(), advance, arrive)
        for name in models:
            values = _compared(parent, finals[_PARENT], finals[name])[:, batch.slot]
            for number in range(2):
                np.add.at(sums[name][number], batch.request, values[number])
        np.add.at(counts, batch.request, 1)
        done[batch.request] = True
        if progress is not None:
            progress(int(done.sum()), len(requests))
    return {name: Agreement(*(both / counts)) for name, both in sums.items()}


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
