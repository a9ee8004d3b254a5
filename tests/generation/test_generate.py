"""Texts written in batches, against transformers' `generate`, one prompt at a time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matformer_lab.generation.decoding import DecodeBudget, generate
from matformer_lab.live.elastic import ElasticParent
from matformer_lab.parent.opening import open_parent
from matformer_lab.slicing.notation.catalog import resolve_slice


@pytest.fixture(scope="module")
def elastic(pico: Path) -> ElasticParent:
    """Its sliding window is 8."""
    return ElasticParent.load(open_parent(str(pico)), dtype=torch.float32)


def live(elastic: ElasticParent, name: str = "full") -> Any:
    return elastic.live(resolve_slice(name, elastic.parent))


def never(_: Sequence[int]) -> bool:
    return False


def alone(model: Any, prompt: Sequence[int], count: int, **options: Any) -> list[int]:
    made = model.generate(
        torch.tensor([list(prompt)]),
        **{"max_new_tokens": count, "do_sample": False, "eos_token_id": None, **options},
    )
    return list(made[0, len(prompt) :].tolist())


TOKENS = st.integers(3, 95)
TEXTS = st.lists(TOKENS, min_size=1, max_size=24)


@settings(max_examples=25)
@given(
    beginning=st.lists(TOKENS, max_size=30),
    ends=st.lists(TEXTS, min_size=1, max_size=6),
    others=st.lists(TEXTS, max_size=2),
    tokens=st.sampled_from([1, 60, 10_000]),
    rows=st.sampled_from([1, 2, 256]),
)
def test_every_prompt_gets_what_it_gets_alone(
    elastic: ElasticParent,
    beginning: list[int],
    ends: list[list[int]],
    others: list[list[int]],
    tokens: int,
    rows: int,
) -> None:
    model = live(elastic)
    prompts = [beginning + end for end in ends] + others
    made = generate(
        model,
        prompts,
        max_new_tokens=12,
        is_done=never,
        budget=DecodeBudget(tokens, rows),
    )
    assert made == [alone(model, prompt, 12) for prompt in prompts]
