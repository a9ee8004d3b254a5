"""Slices scored together against each alone, loaded by transformers from its own checkpoint."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import Gemma3nForCausalLM

from matformer_lab.checkpoint.write import write_checkpoint
from matformer_lab.live.elastic import ElasticParent
from matformer_lab.parent.opening import open_parent
from matformer_lab.scoring import slice_scoring
from matformer_lab.scoring.batches.packing import Request
from matformer_lab.scoring.batches.token_budget import TokenBudget
from matformer_lab.scoring.slice_scoring import layer_keys, score_slices
from matformer_lab.scoring.slice_trie import build_trie
from matformer_lab.slicing.notation.catalog import resolve_slices
from matformer_lab.slicing.plan import make_plan
from matformer_lab.slicing.slice import Slice
from tests.support.pico import PICO, write_parent


def some_requests(count: int = 12, seed: int = 0) -> list[Request]:
    """Branches of two trunks, longer than the pico window of 8; some prefixes of others."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(length: int) -> list[int]:
        return torch.randint(3, 96, (length,), generator=generator).tolist()

    trunks = [[2, *tokens(20)], [2, *tokens(9)]]
    return [
        Request.of([*trunks[n % 2], *tokens(n % 5)], tokens(1 + n % 3), 256) for n in range(count)
    ]


def separate(parent: Any, slice_: Slice) -> Gemma3nForCausalLM:
    """The slice as transformers loads it from its own checkpoint."""
    with TemporaryDirectory() as scratch:
        plan = make_plan(parent, slice_, text_only=True)
        out = write_checkpoint(plan, Path(scratch) / "child")
        model = Gemma3nForCausalLM.from_pretrained(out, dtype=torch.float32)
        model.train(False)
        return model


@st.composite
def slices_of_pico(draw: st.DrawFn) -> list[Slice]:
    """Slices that often agree on their first layers; K/V owners 3 and 4 are always kept."""
    found = []
    for number in range(draw(st.integers(1, 5))):
        skipped = draw(st.sets(st.sampled_from([0, 1, 5, 6, 8]), max_size=2))
        widths = tuple(draw(st.sampled_from([64, 64, 64, 31])) for _ in range(10 - len(skipped)))
        found.append(Slice(f"random {number}", widths, tuple(sorted(skipped))))
    return found


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(slices=slices_of_pico(), batch_tokens=st.sampled_from([20, 400]))
def test_bit_identical_to_separate_models(
    pico: Path, slices: list[Slice], batch_tokens: int
) -> None:
    parent = open_parent(str(pico))
    elastic = ElasticParent.load(parent, dtype=torch.float32)
    requests = some_requests()
    together = score_slices(
        {slice_.name: elastic.live(slice_) for slice_ in slices},
        requests,
        budget=TokenBudget(batch_tokens),
    )
    for slice_ in slices:
        alone = score_slices(
            {"alone": separate(parent, slice_)}, requests, budget=TokenBudget(batch_tokens)
        )
        assert together[slice_.name] == alone["alone"]


@pytest.mark.slow
def test_the_published_slices_share_their_first_layers(miniature: Path) -> None:
    parent = open_parent(str(miniature))
    elastic = ElasticParent.load(parent)
    slices = resolve_slices(["published"], parent, Path())
    models = {slice_.name: elastic.live(slice_) for slice_ in slices}

    layers = {name: model.config.num_hidden_layers for name, model in models.items()}
    trie = build_trie({name: layer_keys(model) for name, model in models.items()})
    assert (len(models), sum(layers.values()), trie.layer_forwards()) == (16, 550, 312)

    together = score_slices(models, some_requests(), budget=TokenBudget(400))
    for slice_ in [slices[n] for n in (0, 1, 4, 15)]:
        alone = score_slices(
            {"alone": separate(parent, slice_)}, some_requests(), budget=TokenBudget(400)
        )
        assert together[slice_.name] == alone["alone"]


def test_models_of_different_parents_are_refused(pico: Path) -> None:
    parent = open_parent(str(pico))
    full = Slice("full", (64,) * 10)
    with pytest.raises(ValueError, match="one parent"):
        score_slices({"a": separate(parent, full), "b": separate(parent, full)}, some_requests())


def _memory_for(tokens: int, model: Gemma3nForCausalLM) -> Any:
    """Make the model fail, as an accelerator does, on more than `tokens` tokens at once."""

    def check(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].shape[1] * inputs[0].shape[2] > tokens:
            raise torch.OutOfMemoryError("not enough memory for this batch")

    return model.model.layers[3].register_forward_pre_hook(check)


@pytest.mark.parametrize("tokens", [300, 600])
def test_the_budget_shrinks_until_the_memory_suffices(pico: Path, tokens: int) -> None:
    model = separate(open_parent(str(pico)), Slice("full", (64,) * 10))
    requests = some_requests(200)
    expected = score_slices({"": model}, requests, budget=TokenBudget(4096))[""]
    calls: list[tuple[float, int]] = []

    hook = _memory_for(tokens, model)
    got = score_slices(
        {"": model}, requests, budget=TokenBudget(4096), progress=lambda *call: calls.append(call)
    )[""]
    hook.remove()

    assert len(calls) > 1
    assert [*calls[-1]] == [200, 200]
    assert calls == sorted(calls)
    for (logprob, greedy), (expected_logprob, expected_greedy) in zip(got, expected, strict=True):
        assert logprob == pytest.approx(expected_logprob, abs=1e-4)
        assert greedy == expected_greedy


def test_memory_for_nothing_is_an_error_not_a_loop(pico: Path) -> None:
    model = separate(open_parent(str(pico)), Slice("full", (64,) * 10))
    hook = _memory_for(10, model)
    with pytest.raises(torch.OutOfMemoryError):
        score_slices({"": model}, some_requests(), budget=TokenBudget(4096))
    hook.remove()


def test_no_requests_are_no_answers(pico: Path) -> None:
    model = separate(open_parent(str(pico)), Slice("full", (64,) * 10))
    assert score_slices({"": model}, []) == {"": []}


def test_without_a_budget_memory_decides_and_running_out_of_it_halves_both_bounds(
    pico: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = separate(open_parent(str(pico)), Slice("full", (64,) * 10))
    requests = some_requests(200)
    expected = score_slices({"": model}, requests, budget=TokenBudget(64))[""]
    shapes: list[tuple[int, int]] = []

    def check(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        rows, tokens = inputs[0].shape[1:3]
        shapes.append((rows, tokens))
        if tokens > 100:
            raise torch.OutOfMemoryError("not enough memory for a row of more than 100 tokens")

    monkeypatch.setattr(slice_scoring, "budget_for", lambda *_, **__: TokenBudget(4096, 160))
    monkeypatch.setattr(
        slice_scoring, "attention_cost", lambda _: 0.0
    )  # the longest rows there are
    hook = model.model.layers[0].register_forward_pre_hook(check)
    got = score_slices({"": model}, requests)[""]
    hook.remove()

    (_, longest), *others = shapes
    assert 100 < longest <= 160
    assert others
    assert all(tokens <= 80 and rows * tokens <= 2048 for rows, tokens in others)
    assert [greedy for _, greedy in got] == [greedy for _, greedy in expected]
    assert [a for a, _ in got] == pytest.approx([a for a, _ in expected], abs=1e-4)


@pytest.mark.parametrize("failing", [2, 3])
def test_answers_stay_with_their_requests_when_memory_runs_out_midway(
    pico: Path, failing: int
) -> None:
    model = separate(open_parent(str(pico)), Slice("full", (64,) * 10))
    requests = some_requests(200)
    expected = score_slices({"": model}, requests, budget=TokenBudget(300, 60))[""]
    forwards = 0

    def fail_once(*_: Any) -> None:
        nonlocal forwards
        forwards += 1
        if forwards == failing:
            raise torch.OutOfMemoryError("another program took the memory")

    progress: list[float] = []
    hook = model.model.layers[3].register_forward_pre_hook(fail_once)
    got = score_slices(
        {"": model},
        requests,
        budget=TokenBudget(300, 60),
        progress=lambda done, _: progress.append(done),
    )[""]
    hook.remove()

    assert len(progress) > failing  # some batches were scored before it, and more than one after
    assert [a for a, _ in got] == pytest.approx([a for a, _ in expected], abs=1e-4)
    assert len({round(a, 3) for a, _ in expected}) > 100  # so that a wrong place shows


def test_ids_that_have_no_rows_of_their_own(tmp_path: Path) -> None:
    """E4B's images and sounds are such ids: transformers gives them row 0."""
    parent = open_parent(
        str(write_parent(tmp_path / "parent", config={**PICO, "vocab_size_per_layer_input": 40}))
    )
    full = Slice("full", (64,) * 10)
    live = ElasticParent.load(parent, dtype=torch.float32).live(full)
    requests = some_requests(20)
    assert {each >= 40 for request in requests for each in request.inputs} == {True, False}
    for request, (logprob, _) in zip(requests, score_slices({"": live}, requests)[""], strict=True):
        with torch.no_grad():
            logits = separate(parent, full)(torch.tensor([request.inputs])).logits[0]
        scores = logits[-len(request.targets) :].log_softmax(-1)
        expected = sum(scores[t, target].item() for t, target in enumerate(request.targets))
        assert logprob == pytest.approx(expected, abs=1e-4)


def test_other_attention_than_sdpa_is_refused(pico: Path) -> None:
    model = separate(open_parent(str(pico)), Slice("full", (64,) * 10))
    model.set_attn_implementation("eager")
    with pytest.raises(ValueError, match="its attention is eager, and scoring needs sdpa"):
        score_slices({"e": model}, some_requests())


@pytest.mark.parametrize("width", [31, 33, 60])
def test_what_else_is_loaded_does_not_matter(tmp_path: Path, width: int) -> None:
    """A single text, so that the last layers multiply one row: there its place matters."""
    config = {**PICO, "intermediate_size": [256] * 10}
    parent = open_parent(str(write_parent(tmp_path / "parent", config=config)))
    own, wider, full = (Slice(str(w), (w,) * 10) for w in (width, width + 40, 256))
    models = [
        ElasticParent.load(parent, slices=slices, dtype=torch.float32).live(own)
        for slices in ([own], [own, wider], [own, full], None)
    ]
    for request in some_requests(10):
        alone, *beside = (score_slices({"": model}, [request]) for model in models)
        assert all(each == alone for each in beside)
