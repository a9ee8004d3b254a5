"""The next token: the likeliest one, or one drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import LogitsProcessorList


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; each means what transformers' `GenerationConfig` means by it.

    Attributes:
        temperature: Above 0.
        top_k: The likeliest tokens that may be drawn; 0: all.
        top_p: As few of the likeliest tokens as have this probability together.
        min_p: A token's least probability, relative to the likeliest one's; None: none.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float | None = None

    @cached_property
    def _warpers(self) -> LogitsProcessorList:
        from transformers import (
            LogitsProcessorList,
            MinPLogitsWarper,
            TemperatureLogitsWarper,
            TopKLogitsWarper,
            TopPLogitsWarper,
        )

        chosen = LogitsProcessorList()  # in transformers' order
        if self.temperature != 1.0:
            chosen.append(TemperatureLogitsWarper(float(self.temperature)))
        if self.top_k:
            chosen.append(TopKLogitsWarper(self.top_k))
        if self.top_p < 1.0:
            chosen.append(TopPLogitsWarper(float(self.top_p)))
        if self.min_p is not None:
            chosen.append(MinPLogitsWarper(float(self.min_p)))
        return chosen

    def probabilities(self, logits: Tensor) -> Tensor:
        """[rows, vocabulary] the probability with which each token is drawn."""
        warped = self._warpers(None, logits.float())  # type: ignore[arg-type]
        return torch.softmax(warped, dim=-1)

    def draw(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """[rows] the tokens drawn, each by its row's own random number.

        So what a prompt draws does not depend on the prompts beside it.

        Args:
            logits: [rows, vocabulary].
            uniform: [rows] numbers in [0, 1), in float64.
        """
        totals = self.probabilities(logits).double().cumsum(dim=-1)
        # Scaled, so that rounding cannot leave a number beyond the last total.
        places = torch.searchsorted(totals, uniform[:, None] * totals[:, -1:], right=True)
        return places[:, 0].clamp(max=logits.shape[-1] - 1)


def likeliest(logits: Tensor) -> Tensor:
    """[rows] the likeliest tokens of [rows, vocabulary]."""
    return logits.float().argmax(dim=-1)


def uniforms(seed: int, tokens: Sequence[int], repeat: int, count: int) -> Tensor:
    """[count] random numbers in [0, 1) that a prompt draws by, whatever is decoded beside it.

    Args:
        seed: The recipe's.
        tokens: The prompt.
        repeat: How many times this prompt came before.
        count: How many numbers.
    """
    named = f"{seed} {repeat} {' '.join(map(str, tokens))}"
    digest = hashlib.sha256(named.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
    return torch.rand(count, generator=generator, dtype=torch.float64)
