"""How many tokens a forward may have, by what memory there is."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import Gemma3nForCausalLM, Gemma3nTextConfig

from matformer_lab.gemma3n import expected_tensors
from matformer_lab.live.devices import free_bytes
from matformer_lab.live.elastic import ElasticParent
from matformer_lab.parent.opening import open_parent
from matformer_lab.scoring.batches.token_budget import (
    ACCELERATOR_TOKENS,
    FEWEST_TOKENS,
    LAYER_WEIGHTS,
    MOST_TOKENS,
    TokenBudget,
    accelerator_budget,
    budget_for,
    tokens_within,
)
from matformer_lab.scoring.memory import PIECE_BYTES
from matformer_lab.slicing.e4b import e4b_config
from matformer_lab.slicing.notation.catalog import resolve_slices


@pytest.fixture(scope="module")
def model() -> Gemma3nForCausalLM:
    (full,) = resolve_slices(["full"], open_parent("tiny"))
    return ElasticParent.load(open_parent("tiny")).live(full)


@pytest.mark.parametrize("available", [0, 2**30, 2**50])
def test_on_a_cpu_the_budget_follows_the_free_memory(
    model: Gemma3nForCausalLM, monkeypatch: pytest.MonkeyPatch, available: int
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=available))
    budget = budget_for(model)
    assert (budget.row_tokens == FEWEST_TOKENS) == (available == 0)
    assert (budget.row_tokens > MOST_TOKENS) == (available == 2**50)
    assert budget.batch_tokens == min(budget.row_tokens, MOST_TOKENS)


@given(st.integers(0, 2**50), st.integers(0, 2**50))
def test_more_room_is_never_fewer_tokens(room: int, more: int) -> None:
    config = Gemma3nTextConfig()
    there = SimpleNamespace(weight=torch.empty(10, 4, device="meta"))
    model: Any = SimpleNamespace(
        config=config,
        dtype=torch.float32,
        model=SimpleNamespace(embed_tokens=there, embed_tokens_per_layer=there),
    )
    tokens = tokens_within(room, model)
    assert tokens % FEWEST_TOKENS == 0
    assert FEWEST_TOKENS <= tokens <= tokens_within(room + more, model)


def test_all_slices_of_a_parent_have_one_budget(miniature: Path) -> None:
    parent = open_parent(str(miniature))
    elastic = ElasticParent.load(parent)
    slices = resolve_slices(["published"], parent)
    assert len({tokens_within(2**30, elastic.live(slice_)) for slice_ in slices}) == 1


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The figures that CUDA would give, of a device that is not there."""
    told = SimpleNamespace(free=0, reserved=0, allocated=0)
    backend = SimpleNamespace(
        mem_get_info=lambda _: (told.free, 80 << 30),
        memory_reserved=lambda _: told.reserved,
        memory_allocated=lambda _: told.allocated,
    )
    monkeypatch.setattr(torch, "get_device_module", lambda _: backend)
    return told


def test_what_pytorch_keeps_counts_as_free(gpu: SimpleNamespace) -> None:
    gpu.free, gpu.reserved, gpu.allocated = 100, 50, 20
    assert free_bytes(torch.device("cuda", 0)) == 130


def test_both_bounds_are_halved() -> None:
    assert TokenBudget(1024, 4096).halved() == TokenBudget(512, 2048)
    assert TokenBudget(16384, 16384, "compiled", 1 << 30).halved() == TokenBudget(
        8192, 8192, "compiled", 1 << 29
    )


def test_a_budget_that_was_halved_is_the_one_of_its_size(gpu: SimpleNamespace) -> None:
    """One budget and mode, the same bits: FFN pieces follow from the tokens, too."""
    found = {}
    for free in range(0, 80, 2):
        gpu.free = free << 30
        budget = budget_for(e4b_on(torch.device("cuda", 0)))
        found[budget.batch_tokens] = budget
    assert {16384, 8192} <= found.keys()
    gpu.free = 1 << 30
    for room in (2**28, 2**29, 2**30, 2**31, 2**32):
        budget = accelerator_budget(e4b_on(torch.device("cuda", 0)), room)
        found[budget.batch_tokens] = budget
    for tokens, budget in found.items():
        if tokens // 2 in found:
            assert budget.halved() == found[tokens // 2]
    assert {8192, 4096, 2048} <= found.keys()
    assert found[4096].piece_bytes == PIECE_BYTES


def e4b_on(device: torch.device) -> Any:
    """As much of E4B as a budget depends on; the device need not be there."""
    text = SimpleNamespace(
        embed_tokens=SimpleNamespace(weight=SimpleNamespace(device=device, nbytes=2**30)),
        embed_tokens_per_layer=SimpleNamespace(weight=torch.empty(1, 35 * 256, device="meta")),
    )
    return SimpleNamespace(
        model=text, config=Gemma3nTextConfig(), dtype=torch.bfloat16, device=device
    )


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("free", "least"), [(70, 16384), (24, 16384), (14, 8192), (7, 8192)])
def test_an_accelerator_with_room_gets_thousands_of_tokens(
    gpu: SimpleNamespace, free: int, least: int, compiled: bool
) -> None:
    gpu.free = free << 30
    budget = budget_for(e4b_on(torch.device("cuda", 0)), compiled=compiled)
    assert budget.batch_tokens in ACCELERATOR_TOKENS
    assert budget.batch_tokens >= least
    assert budget.row_tokens == budget.batch_tokens
    assert budget.piece_bytes == budget.batch_tokens << 16
    assert budget.mode == ("compiled" if compiled else "rows")


def test_a_megabyte_more_or_less_does_not_matter(gpu: SimpleNamespace) -> None:
    """Bits depend on the budget, and free memory on what else runs."""
    found = set()
    for free in range(20_000, 20_200):
        gpu.free = free << 20
        found.add(budget_for(e4b_on(torch.device("cuda", 0))))
    assert len(found) == 1


@given(st.integers(0, 2**37), st.booleans())
def test_an_accelerators_budget_keeps_to_its_room(room: int, compiled: bool) -> None:
    model = e4b_on(torch.device("cuda", 0))
    budget = accelerator_budget(model, room, compiled=compiled)
    assert budget.batch_tokens in ACCELERATOR_TOKENS
    left = room - (budget.piece_bytes - PIECE_BYTES)
    fits = tokens_within(left, model, dense_masks=not compiled)
    assert budget.batch_tokens <= fits
    larger = accelerator_budget(model, 2 * room, compiled=compiled)
    assert larger.batch_tokens >= budget.batch_tokens


def test_where_the_plan_is_all_there_is_a_tenth_of_it_gives_2048_tokens() -> None:
    (budget,) = {
        accelerator_budget(e4b_on(torch.device("cuda", 0)), 9_035_772_896 // 10, compiled=compiled)
        for compiled in (False,)
    }
    assert budget == TokenBudget(2048, 2048)


def test_what_a_cpu_compiles_has_few_sizes(
    model: Gemma3nForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2**50))
    assert budget_for(model, compiled=True) == TokenBudget(8192, 8192, "compiled")


def test_a_batch_of_e4bs_size_takes_a_cpu_two_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """118 GFLOP/s, measured on two cores with AVX2; the FFN of a slice does not matter."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2**50))
    for width in (8192, 16384):
        config = Gemma3nTextConfig(intermediate_size=[width] * 35)
        text = SimpleNamespace(
            embed_tokens=SimpleNamespace(weight=torch.empty(1, 1)),
            embed_tokens_per_layer=SimpleNamespace(weight=torch.empty(1, 35 * 256)),
        )
        model: Any = SimpleNamespace(
            model=text, config=config, dtype=torch.float32, device=torch.device("cpu")
        )
        tokens = budget_for(model).batch_tokens
        assert tokens == 1536
        flops = (
            2 * 35 * LAYER_WEIGHTS * config.hidden_size**2
        )  # of a token through the whole of E4B
        assert 90 < tokens * flops / 118e9 < 120


def test_the_weights_of_a_layer_of_e4b() -> None:
    text = e4b_config()
    layer = [one for one in expected_tensors(text) if one.name.startswith("layers.0.")]
    weights = sum(math.prod(one.shape) for one in layer)
    assert round(weights / text.hidden_size**2) == LAYER_WEIGHTS
