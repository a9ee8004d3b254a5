"""float32 arithmetic over weights that stay in bf16: the results of a float32 copy, without it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from matformer_lab.live import elastic, stored_dtype
from matformer_lab.live.elastic import ElasticParent
from matformer_lab.parent.opening import open_parent
from matformer_lab.scoring.batches.packing import Request
from matformer_lab.scoring.batches.token_budget import TokenBudget
from matformer_lab.scoring.slice_scoring import score_slices
from matformer_lab.slicing.slice import Slice
from tests.live.test_elastic import generated

BUDGET = TokenBudget(64, 64)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every matrix of a pico parent counts as large, and is converted in many blocks."""
    monkeypatch.setattr(stored_dtype, "SMALLEST_KEPT", 100)
    monkeypatch.setattr(stored_dtype, "CONVERTED_AT_ONCE", 500)
    yield


def copied(parent: Path) -> ElasticParent:
    """All weights as a copy in float32."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elastic, "keeps_stored_dtype", lambda *_: False)
        return ElasticParent.load(parent, dtype="float32")


@st.composite
def slices(draw: st.DrawFn) -> list[Slice]:
    found = []
    for number in range(draw(st.integers(1, 3))):
        skipped = draw(st.sets(st.sampled_from([0, 1, 2, 5, 6, 7, 8]), max_size=3))
        widths = tuple(draw(st.integers(1, 64)) for _ in range(10 - len(skipped)))
        found.append(Slice(f"slice-{number}", widths, tuple(sorted(skipped))))
    return found


def requests(seed: int) -> list[Request]:
    generator = torch.Generator().manual_seed(seed)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(1, 96, (count,), generator=generator).tolist())

    block = ids(9)
    return [Request((*block, *ids(5)), ids(1 + number % 3)) for number in range(9)]


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(several=slices(), seed=st.integers(0, 2**16))
def test_answers_are_those_of_a_float32_copy(
    kept: None, pico: Path, several: list[Slice], seed: int
) -> None:
    parent = open_parent(str(pico))
    lazy, eager = ElasticParent.load(parent, dtype="float32"), copied(pico)
    models = {one.name: lazy.live(one) for one in several}
    found = score_slices(models, requests(seed), budget=BUDGET)
    wanted = score_slices(
        {one.name: eager.live(one) for one in several}, requests(seed), budget=BUDGET
    )
    for name, answers in found.items():
        assert [a.logprob for a in answers] == pytest.approx(
            [a.logprob for a in wanted[name]], abs=2e-4
        )
        assert [a.is_greedy for a in answers] == [a.is_greedy for a in wanted[name]]
        # Alone, the same bits.
        alone = score_slices({name: models[name]}, requests(seed), budget=BUDGET)
        assert alone[name] == answers


def test_the_whole_model_computes_and_generates_alike(kept: None, pico: Path) -> None:
    lazy = ElasticParent.load(pico, dtype="float32").live("1/2")
    eager = copied(pico).live("1/2")
    ids = torch.randint(1, 96, (2, 24), generator=torch.Generator().manual_seed(0))
    assert lazy.dtype == torch.float32
    torch.testing.assert_close(lazy(ids).logits, eager(ids).logits, rtol=0, atol=1e-5)
    assert torch.equal(generated(lazy, ids), generated(eager, ids))


def test_the_weights_stay_the_files(kept: None, pico: Path) -> None:
    parent = ElasticParent.load(pico, dtype="float32")
    live = parent.live("1/2")
    gate = live.model.layers[0].mlp.gate_proj
    assert isinstance(gate, stored_dtype.ConvertingLinear)
    stored = parent.weights["layers.0.mlp.gate_proj.weight"]
    assert gate.weight.data_ptr() == stored.data_ptr() and gate.weight.dtype == torch.bfloat16
    assert live.lm_head.weight is live.model.embed_tokens.weight
    large = [p for p in live.parameters() if p.dtype == torch.float32 and p.numel() >= 100]
    assert not large
    assert {p.dtype for p in live.parameters()} <= {torch.float32, torch.bfloat16}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_other_compute_dtypes_have_no_part_in_it(kept: None, pico: Path, dtype: str) -> None:
    live = ElasticParent.load(pico, dtype=dtype).live("1/2")
    assert not any(isinstance(m, stored_dtype.ConvertingLinear) for m in live.modules())
    assert {weight.dtype for weight in live.parameters()} == {getattr(torch, dtype)}
