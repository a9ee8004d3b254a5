"""Compiled layers: the same scores, and a line and the usual layers where they do not work."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Gemma3nForCausalLM

from matformer_lab.live.elastic import ElasticParent
from matformer_lab.parent.opening import open_parent
from matformer_lab.scoring import compiled_layers, packed_forward, slice_scoring
from matformer_lab.scoring.batches.token_budget import TokenBudget
from matformer_lab.scoring.compiled_layers import compiled_code_folder, why_not_compiled
from matformer_lab.scoring.journal import FileJournal, Journal
from matformer_lab.scoring.slice_scoring import score_slices
from matformer_lab.slicing.slice import Slice
from tests.scoring.test_slice_scoring import some_requests

COMPILED = TokenBudget(512, 512, "compiled")
LAYERS = ((64,) * 10, (64, 64, 31) + (64,) * 7, (64,) * 6 + (33,) * 4)


@pytest.fixture(scope="module")
def models(pico: Path) -> dict[str, Gemma3nForCausalLM]:
    elastic = ElasticParent.load(open_parent(str(pico)), dtype=torch.float32)
    return {str(n): elastic.live(Slice(str(n), widths)) for n, widths in enumerate(LAYERS)}


@pytest.fixture(
    params=[pytest.param(name, marks=pytest.mark.slow) for name in ("eager", "inductor")]
)
def compiler(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[str]:
    """What compiles: PyTorch's C++ backend; or, for the cheap twin, one that only traces."""
    if request.param == "inductor" and why_not_compiled("cpu") is not None:
        pytest.skip("no C++ compiler")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(compiled_layers, "_BACKEND", request.param)
    torch.compiler.reset()
    for each in (compiled_layers.compiled, compiled_layers.compiled_for_any_size):
        each.cache_clear()
    yield request.param
    for each in (compiled_layers.compiled, compiled_layers.compiled_for_any_size):
        each.cache_clear()
    torch.compiler.reset()


def test_compiled_layers_agree_with_those_that_are_not(
    models: dict[str, Gemma3nForCausalLM], compiler: str, tmp_path: Path
) -> None:
    requests = some_requests(24)
    expected = score_slices(models, requests, budget=TokenBudget(512))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="layers are not compiled")
        together = score_slices(models, requests, budget=COMPILED)
        before = _compilations()
        alone = {
            name: score_slices({name: models[name]}, requests, budget=COMPILED)[name]
            for name in models
        }
    for name, answers in expected.items():
        found = together[name]
        assert [a for a, _ in found] == pytest.approx([a for a, _ in answers], abs=1e-5)
        assert [greedy for _, greedy in found] == [greedy for _, greedy in answers]
    assert alone == together  # the same bits
    assert _compilations() == before  # whatever the slices' widths
    assert before < 40
    assert any(tmp_path.rglob("*")) == (compiler == "inductor")


def _compilations() -> int:
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], list[int]]:
    """Makes compiled layers fail, as on a device whose compiler does not work."""

    def fail(error: Exception) -> list[int]:
        calls = [0]

        def compiled_layer(layer: Any) -> Any:
            calls[0] += 1
            raise error

        monkeypatch.setattr(slice_scoring, "why_not_compiled", lambda _: None)
        monkeypatch.setattr(packed_forward, "compiled_layer", compiled_layer)
        return calls

    return fail


def test_a_compiler_that_fails_is_one_line_and_the_usual_layers_serve(
    models: dict[str, Gemma3nForCausalLM], failing: Callable[[Exception], list[int]]
) -> None:
    requests = some_requests()
    expected = score_slices(models, requests, budget=COMPILED.in_rows())
    calls = failing(RuntimeError("ptxas: no such file\nand a long story"))
    kept = Journal()
    with pytest.warns(UserWarning, match=r"not compiled, and scoring is slower: RuntimeError: ptx"):
        found = score_slices(models, requests, budget=COMPILED, journal=kept)
    assert found == expected
    assert calls == [1]  # once for all batches
    assert [budget.mode for budget in kept.budgets] == ["compiled", "rows"]
    assert all(model.config._attn_implementation == "sdpa" for model in models.values())


def test_a_compiler_that_computes_something_else_is_not_believed(
    models: dict[str, Gemma3nForCausalLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = some_requests()
    expected = score_slices(models, requests, budget=COMPILED.in_rows())
    monkeypatch.setattr(slice_scoring, "why_not_compiled", lambda _: None)
    monkeypatch.setattr(packed_forward, "compiled", lambda function: function)
    monkeypatch.setattr(packed_forward, "compiled_layer", lambda layer: layer)
    kept = Journal()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="layers are not compiled")
        score_slices(models, requests, budget=COMPILED, journal=kept)
    assert [budget.mode for budget in kept.budgets] == ["compiled"]

    def wrong(layer: Any) -> Any:
        return lambda *inputs, **others: 1.01 * layer(*inputs, **others)

    monkeypatch.setattr(packed_forward, "compiled_layer", wrong)
    with pytest.warns(UserWarning, match="off by .* a token, and rounding explains 0.0001"):
        found = score_slices(models, requests, budget=COMPILED)
    assert found == expected


def test_a_continued_pass_goes_on_with_the_usual_layers(
    models: dict[str, Gemma3nForCausalLM],
    failing: Callable[[Exception], list[int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    requests, budget = some_requests(), TokenBudget(24, 24, "compiled")
    expected = score_slices(models, requests, budget=budget.in_rows())
    calls = failing(RuntimeError("no"))

    def journal() -> FileJournal:
        return FileJournal(tmp_path / "pass.journal", list(models), {"keys": ["a"]})

    compute = slice_scoring.score_batch
    batches = 0

    def killed(*args: Any) -> Any:
        nonlocal batches
        batches += 1
        if batches == 3:
            raise KeyboardInterrupt
        return compute(*args)

    monkeypatch.setattr(slice_scoring, "score_batch", killed)
    with pytest.warns(UserWarning, match="not compiled"), pytest.raises(KeyboardInterrupt):
        score_slices(models, requests, budget=budget, journal=journal())
    again = journal()
    assert score_slices(models, requests, budget=budget, journal=again) == expected
    assert calls == [1]
    assert [each.mode for each in again.budgets] == ["compiled", "rows"]


def test_memory_that_runs_out_in_the_compiler_is_memory(
    models: dict[str, Gemma3nForCausalLM],
    failing: Callable[[Exception], list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = RuntimeError("the backend failed")
    error.__cause__ = torch.OutOfMemoryError("no room to try a kernel")
    failing(error)
    kept = Journal()
    with pytest.raises(torch.OutOfMemoryError):
        score_slices(models, some_requests(), budget=COMPILED, journal=kept)
    assert [(budget.batch_tokens, budget.mode) for budget in kept.budgets] == [
        (512, "compiled"),
        (256, "compiled"),
    ]


def test_without_a_compiler_a_line_says_so(
    models: dict[str, Gemma3nForCausalLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> str:
        raise RuntimeError("InvalidCxxCompiler")

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", none)
    requests = some_requests()
    with pytest.warns(UserWarning, match="slower: no C\\+\\+ compiler was found"):
        found = score_slices(models, requests, compiled=True)
    assert found == score_slices(models, requests)


def test_without_triton_a_gpu_is_not_compiled_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: False)
    assert "Triton" in str(why_not_compiled("cuda:0"))
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: True)
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.delenv("CC", raising=False)
    assert "C compiler" in str(why_not_compiled("cuda:0"))
    assert why_not_compiled("mps") == "mps is not compiled for"


def test_compiled_code_lies_in_our_cache_unless_pytorch_is_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setenv("MATFORMER_LAB_CACHE", str(tmp_path))
    assert compiled_code_folder() == tmp_path / "compiled"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "own"))
    assert compiled_code_folder() == tmp_path / "own"
