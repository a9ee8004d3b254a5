"""Scoring on an accelerator, where the machine has one: the same scores, the table on the host."""

import numpy as np
import pytest
import torch

from matformer_lab.live.devices import has_own_memory
from matformer_lab.live.elastic import ElasticParent
from matformer_lab.parent.opening import open_parent
from matformer_lab.scoring.batches.packing import Request
from matformer_lab.scoring.batches.token_budget import TokenBudget
from matformer_lab.scoring.slice_scoring import Answer, score_slices
from matformer_lab.slicing.notation.catalog import resolve_slices

ACCELERATOR = torch.accelerator.current_accelerator()
TABLE = "embed_tokens_per_layer.weight"

pytestmark = pytest.mark.skipif(
    ACCELERATOR is None or not has_own_memory(ACCELERATOR),
    reason="no accelerator with memory of its own",
)


def some_requests() -> list[Request]:
    rng = np.random.default_rng(0)
    trunks = rng.integers(3, 1000, (6, 30)).tolist()
    return [
        Request.of(
            [2, *trunks[n % 6], *rng.integers(3, 1000, 5).tolist()],
            rng.integers(3, 1000, 3).tolist(),
            256,
        )
        for n in range(60)
    ]


def scored(device: str, *, table_moves: bool = False) -> dict[str, list[Answer]]:
    # Trained: 35 layers of random weights make more of a kernel's last bit than is compared here.
    elastic = ElasticParent.load(open_parent("tiny"), dtype=torch.float32, device=device)
    on_host = {name for name, weight in elastic.weights.items() if weight.device.type == "cpu"}
    assert device == "cpu" or on_host == {TABLE}
    if table_moves:
        moved = {TABLE: elastic.weights[TABLE].to(device)}
        elastic = ElasticParent(elastic.parent, elastic.dtype, device, {**elastic.weights, **moved})
    slices = resolve_slices(["e4b", "e2b", "e2.49b-block"], elastic.parent)
    models = {slice_.name: elastic.live(slice_) for slice_ in slices}
    # Small batches, so that rows are under way while others are computed.
    return score_slices(models, some_requests(), budget=TokenBudget(120))


def test_scores_are_the_cpus() -> None:
    assert ACCELERATOR is not None
    there, here = scored(f"{ACCELERATOR.type}:0"), scored("cpu")
    assert there.keys() == here.keys()
    for name, answers in here.items():
        for (logprob, greedy), (expected, expected_greedy) in zip(
            there[name], answers, strict=True
        ):
            assert logprob == pytest.approx(expected, abs=2e-4)
            assert greedy == expected_greedy


def test_where_the_table_lies_does_not_matter() -> None:
    assert ACCELERATOR is not None
    device = f"{ACCELERATOR.type}:0"
    assert scored(device) == scored(device, table_moves=True)
