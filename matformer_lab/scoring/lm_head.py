"""What the LM head says of a batch's targets: a bounded number of logits at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear, log_softmax

from matformer_lab.live.stored_dtype import ConvertingLinear
from matformer_lab.scoring.memory import LOGITS_AT_ONCE

if TYPE_CHECKING:
    from transformers import Gemma3nForCausalLM

_TOKENS_AT_ONCE: Final = 1024
"""With a head that is converted block by block: 64 MiB of logits, and one conversion for all."""


class TargetScores(NamedTuple):
    """A model's predictions of a batch's targets, on the model's device."""

    logprob: Tensor
    """[reads] log-probability (natural logarithm), fp32 whatever the model's dtype."""
    is_greedy: Tensor
    """[reads] whether the target is the most likely token."""


def tokens_at_once(model: Gemma3nForCausalLM) -> int:
    """How many tokens `target_scores` may get: as many as bound the logits in memory."""
    if isinstance(model.lm_head, ConvertingLinear):
        return _TOKENS_AT_ONCE
    return max(1, LOGITS_AT_ONCE // model.config.vocab_size)


def target_scores(
    model: Gemma3nForCausalLM, final: Tensor, reads: Tensor, wanted: Tensor
) -> TargetScores:
    """The predictions at some tokens.

    Args:
        model: Has the head.
        final: [tokens, hidden_size] the head's input.
        reads: [reads] which of `final` each prediction is read at.
        wanted: [reads] the token ids that are asked about.
    """
    if isinstance(model.lm_head, ConvertingLinear):
        return _by_blocks(model, model.lm_head, final, reads, wanted)
    scores = log_softmax(softcapped(model, model.lm_head(final)), dim=-1, dtype=torch.float32)
    return TargetScores(scores[reads, wanted], scores.argmax(dim=-1)[reads] == wanted)


def _by_blocks(
    model: Gemma3nForCausalLM, head: ConvertingLinear, final: Tensor, reads: Tensor, wanted: Tensor
) -> TargetScores:
    """The same, a block of the vocabulary after the other, each converted once.

    The normaliser is summed along the way: relative to the largest logit so far, and rescaled when
    a larger one comes (Milakov and Gimelshein 2018, "Online normalizer calculation for softmax").
    """
    largest = final.new_full((len(final),), -torch.inf)
    total = final.new_zeros(len(final))
    likeliest = torch.zeros_like(largest, dtype=torch.long)
    logit = torch.empty_like(wanted, dtype=final.dtype)
    for block in head.blocks():
        logits = softcapped(model, linear(final, block.weight))
        here = (block.first <= wanted) & (wanted < block.stop)
        logit[here] = logits[reads[here], wanted[here] - block.first]
        top, place = logits.max(dim=-1)
        likeliest = torch.where(top > largest, place + block.first, likeliest)
        before, largest = largest, torch.maximum(largest, top)
        total *= (before - largest).exp()
        total += logits.sub_(largest[:, None]).exp_().sum(dim=-1)
    logprob = logit - (largest + total.log())[reads]
    return TargetScores(logprob, likeliest[reads] == wanted)


def softcapped(model: Gemma3nForCausalLM, logits: Tensor) -> Tensor:
    """Logits with Gemma 3n's bound on their size, in place."""
    softcap: float | None = model.config.final_logit_softcapping
    if softcap is None:
        return logits
    # In place: these are the largest tensors of a forward.
    return logits.div_(softcap).tanh_().mul_(softcap)
