"""Tokens drawn: the distribution is transformers', the draw is the row's own."""

from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from matformer_lab.generation.sampling import Sampling, likeliest, uniforms
from matformer_lab.live.elastic import ElasticParent


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"temperature": 0.6},
        {"top_k": 5},
        {"top_p": 0.8},
        {"min_p": 0.1},
        {"temperature": 1.4, "top_k": 9, "top_p": 0.7, "min_p": 0.01},
    ],
)
def test_the_distribution_is_transformers(asked: dict[str, Any]) -> None:
    model: Any = ElasticParent.load("tiny").live("1/2")
    logits = 3 * torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    options = {"do_sample": True, "top_k": 0, **asked}
    config: Any = GenerationConfig(**options)  # type: ignore[no-untyped-call]
    config, _ = model._prepare_generation_config(config)
    theirs = model._get_logits_processor(config)(torch.zeros(4, 1, dtype=torch.long), logits)
    ours = Sampling(**asked).probabilities(logits)
    torch.testing.assert_close(ours, torch.softmax(theirs, dim=-1))


def test_tokens_are_drawn_by_their_probability() -> None:
    probabilities = torch.tensor([0.5, 0.0, 0.25, 0.25])
    count = 4000
    uniform = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    drawn = Sampling().draw(probabilities.log().expand(count, -1), uniform)
    assert torch.bincount(drawn, minlength=4).tolist() == [2000, 0, 1000, 1000]
    edges = Sampling().draw(
        probabilities.log().expand(2, -1), torch.tensor([0.0, 1 - 1e-16]).double()
    )
    assert edges.tolist() == [0, 3]


def test_random_numbers_are_the_prompts_own() -> None:
    first = uniforms(1, [2, 5], 0, 8)
    assert torch.equal(first, uniforms(1, [2, 5], 0, 8))
    others = [uniforms(2, [2, 5], 0, 8), uniforms(1, [25], 0, 8), uniforms(1, [2, 5], 1, 8)]
    assert all(not torch.equal(first, other) for other in others)
    assert bool(((first >= 0) & (first < 1)).all())


def test_the_first_of_the_likeliest_is_taken() -> None:
    assert likeliest(torch.tensor([[1.0, 3.0, 3.0]], dtype=torch.bfloat16)).tolist() == [1]
