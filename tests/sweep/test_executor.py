"""What the local executor says when memory does not suffice."""

from typing import Any

import pytest
import torch

from matformer_lab.common.errors import InputError
from matformer_lab.live.elastic import ElasticParent
from matformer_lab.sweep.executors.score_pass import load_elastic, score_pass
from matformer_lab.sweep.jobs import Prepared, prepare
from matformer_lab.sweep.recipe import parse_recipe


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepare(
        parse_recipe(
            {
                "parent": "tiny",
                "slices": ["1/8"],
                "tasks": ["tiny_boolq"],
                "limit": 3,
                "dtype": "float32",
                "device": "cpu",
            }
        )
    )


def test_only_what_the_recipes_slices_need_is_loaded(prepared: Prepared) -> None:
    weights = load_elastic(prepared).weights
    full = prepared.parent.text.intermediate_size[0]
    assert weights["layers.0.mlp.up_proj.weight"].shape[0] == full // 8


def test_weights_that_do_not_fit_are_one_line(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ElasticParent, "load", lambda *_, **__: torch.empty(2**50))
    with pytest.raises(InputError, match="cpu has too little memory for these slices in float32"):
        load_elastic(prepared)


def scores(prepared: Prepared, monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    elastic = load_elastic(prepared)
    live = ElasticParent.live

    def failing(self: ElasticParent, slice_: Any) -> Any:
        def fail(*_: Any) -> None:
            raise failure

        model = live(self, slice_)
        model.model.layers[3].register_forward_pre_hook(fail)
        return model

    monkeypatch.setattr(ElasticParent, "live", failing)
    list(score_pass(prepared, elastic, prepared.jobs, lambda *_: None))


def test_activations_that_do_not_fit_are_one_line(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="too little memory"):
        scores(prepared, monkeypatch, torch.OutOfMemoryError("tried to allocate 20 GiB"))


def test_other_failures_are_not_called_lack_of_memory(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError, match="wrong shapes"):
        scores(prepared, monkeypatch, RuntimeError("wrong shapes"))
