"""Compiled layers: the same scores, and a line and the usual layers where they do not work."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Gemma3nForCausalLM

from matformer_lab.common.errors import InputError
from matformer_lab.live.elastic import ElasticParent
from matformer_lab.parent.opening import open_parent
from matformer_lab.scoring import compiled_layers, packed_forward, slice_scoring
from matformer_lab.scoring.batches.packing import Request
from matformer_lab.scoring.batches.token_budget import TokenBudget
from matformer_lab.scoring.compiled_layers import compiled_code_folder, why_not_compiled
from matformer_lab.scoring.compiler_faults import NotCompiledError, check_rounding
from matformer_lab.scoring.journal import FileJournal, Journal
from matformer_lab.scoring.memory import PIECE_BYTES
from matformer_lab.scoring.slice_scoring import score_slices
from matformer_lab.slicing.slice import Slice
from tests.scoring.test_slice_scoring import some_requests

COMPILED = TokenBudget(512, 512, "compiled")
SMALL = TokenBudget(128, 128, "compiled")
LAYERS = ((64,) * 10, (64, 64, 31) + (64,) * 7, (64,) * 6 + (33,) * 4)


def unlike(count: int) -> list[Request]:
    """Requests that share nothing: two fill a row of 128 tokens."""
    return [Request.of([2, *[5 + n] * 50], [7, 8, 9], 256) for n in range(count)]


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
    assert [budget.mode for budget in kept.budgets] == ["rows"]  # nothing was compiled
    assert all(model.config._attn_implementation == "sdpa" for model in models.values())


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts the layers themselves in the place of compiled ones, right or wrong by a factor."""

    def trace(factor: float = 1.0) -> None:
        def layer_of(layer: Any) -> Any:
            if factor == 1.0:
                return layer
            return lambda *inputs, **others: factor * layer(*inputs, **others)

        monkeypatch.setattr(slice_scoring, "why_not_compiled", lambda _: None)
        monkeypatch.setattr(packed_forward, "compiled", lambda function: function)
        monkeypatch.setattr(packed_forward, "compiled_layer", layer_of)

    return trace


def test_a_compiler_that_computes_something_else_is_not_believed(
    models: dict[str, Gemma3nForCausalLM], traced: Callable[..., None]
) -> None:
    requests = some_requests()
    expected = score_slices(models, requests, budget=COMPILED.in_rows())
    traced()
    kept = Journal()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="layers are not compiled")
        score_slices(models, requests, budget=COMPILED, journal=kept)
    assert [budget.mode for budget in kept.budgets] == ["compiled"]

    traced(1.01)
    with pytest.warns(UserWarning, match="off by .* a token, and rounding explains 0.0001"):
        found = score_slices(models, requests, budget=COMPILED)
    assert found == expected


def killed_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    compute = slice_scoring.score_batch
    batches = 0

    def killed(*args: Any) -> Any:
        nonlocal batches
        batches += 1
        if batches > count:
            raise KeyboardInterrupt
        return compute(*args)

    monkeypatch.setattr(slice_scoring, "score_batch", killed)


def test_a_continued_pass_is_checked_anew(
    models: dict[str, Gemma3nForCausalLM],
    traced: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another machine, with another compiler, may go on with it."""
    requests = unlike(8)

    def journal() -> FileJournal:
        return FileJournal(tmp_path / "pass.journal", list(models), {"keys": ["a"]})

    traced()
    with monkeypatch.context() as changed:
        killed_after(4, changed)  # the check's included
        with pytest.raises(KeyboardInterrupt):
            score_slices(models, requests, budget=SMALL, journal=journal())
    traced(1.01)
    again = journal()
    with pytest.warns(UserWarning, match="off by .* a token, and rounding explains 0.0001"):
        found = score_slices(models, requests, budget=SMALL, journal=again)
    assert [each.mode for each in again.budgets] == ["compiled", "rows"]
    usual = score_slices(models, requests, budget=SMALL.in_rows())
    for name, answers in usual.items():
        assert [a for a, _ in found[name]] == pytest.approx([a for a, _ in answers], abs=1e-5)


def test_a_smaller_budget_is_checked_anew(
    models: dict[str, Gemma3nForCausalLM],
    traced: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    traced()
    checks = 0
    score = slice_scoring.score_batch

    def counted(*args: Any) -> None:
        nonlocal checks
        checks += 1
        if checks == 1:  # from here on, the larger batches do not fit
            monkeypatch.setattr(slice_scoring, "score_batch", short)
        check_rounding(*args)

    def short(*args: Any) -> Any:
        if args[5] == COMPILED:
            raise torch.OutOfMemoryError
        return score(*args)

    monkeypatch.setattr(slice_scoring, "check_rounding", counted)
    kept = Journal()
    score_slices(models, unlike(12), budget=COMPILED, journal=kept)
    assert kept.budgets == [COMPILED, COMPILED.halved()]
    assert checks == 2


def test_a_check_that_does_not_fit_is_left_out(
    models: dict[str, Gemma3nForCausalLM],
    traced: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    traced()
    score, asked = slice_scoring.score_batch, []

    def short(*args: Any) -> Any:
        asked.append(args[5])
        if args[5].mode == "rows":
            raise torch.OutOfMemoryError
        return score(*args)

    monkeypatch.setattr(slice_scoring, "score_batch", short)
    kept = Journal()
    large = TokenBudget(512, 512, "compiled", 1 << 30)
    with pytest.warns(UserWarning, match="too little memory to compare compiled layers"):
        score_slices(models, some_requests(), budget=large, journal=kept)
    assert kept.budgets == [large]
    rows = [budget for budget in asked if budget.mode == "rows"]
    assert rows and all(budget.row_tokens <= 2048 for budget in rows)
    assert all(budget.piece_bytes == PIECE_BYTES for budget in rows)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("compiled", "usual", "right"),
    [
        ([-1.0, -2.0, -3.0], [-1.0, -2.0, -3.0], True),
        ([-1.0, -2.0, -3.0], [-1.1, -2.0, -3.0], True),  # one token is not the median
        ([-1.0, -2.0, -3.0], [-1.1, -2.1, -3.0], False),
        ([NAN, NAN, NAN], [NAN, NAN, NAN], True),  # the weights' fault
        ([-INF, NAN, -3.0], [-INF, NAN, -3.0], True),
        ([NAN, -2.0, -3.0], [-1.0, -2.0, -3.0], False),
        ([-1.0, -2.0, -3.0], [NAN, -2.0, -3.0], False),
    ],
)
def test_rounding_is_told_from_wrong_answers(
    compiled: list[float], usual: list[float], right: bool
) -> None:
    def check() -> None:
        check_rounding(compiled, usual, [1, 1, 1], torch.float32)

    if right:
        check()
    else:
        with pytest.raises(NotCompiledError, match="off by"):
            check()


def test_a_continued_pass_goes_on_with_the_usual_layers(
    models: dict[str, Gemma3nForCausalLM],
    failing: Callable[[Exception], list[int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    requests, budget = unlike(8), SMALL
    expected = score_slices(models, requests, budget=budget.in_rows())
    calls = failing(RuntimeError("no"))

    def journal() -> FileJournal:
        return FileJournal(tmp_path / "pass.journal", list(models), {"keys": ["a"]})

    with monkeypatch.context() as changed:
        killed_after(2, changed)
        with pytest.warns(UserWarning, match="not compiled"), pytest.raises(KeyboardInterrupt):
            score_slices(models, requests, budget=budget, journal=journal())
    again = journal()
    with pytest.warns(UserWarning, match="slower: an earlier run of this pass could not"):
        assert score_slices(models, requests, budget=budget, journal=again) == expected
    assert calls == [1]
    assert [each.mode for each in again.budgets] == ["rows"]


def test_memory_that_runs_out_in_the_compiler_is_memory(
    models: dict[str, Gemma3nForCausalLM],
    failing: Callable[[Exception], list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = RuntimeError("the backend failed")
    error.__cause__ = torch.OutOfMemoryError("no room to try a kernel")
    calls = failing(error)
    kept = Changes()
    with pytest.raises(torch.OutOfMemoryError):
        score_slices(models, some_requests(), budget=COMPILED, journal=kept)
    assert calls == [2]
    assert kept.changes == [TokenBudget(256, 256, "compiled")]


class Changes(Journal):
    """A journal that is asked afterwards what it was told to change."""

    def __init__(self) -> None:
        super().__init__()
        self.changes: list[TokenBudget] = []

    def add_change(self, budget: TokenBudget) -> None:
        self.changes.append(budget)


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize(
    "fault",
    [
        InputError("model.safetensors: could not be read"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: not enough memory"),
        MemoryError(),
    ],
)
def test_a_disk_or_memory_that_fails_is_not_the_compilers_fault(
    models: dict[str, Gemma3nForCausalLM],
    failing: Callable[[Exception], list[int]],
    fault: Exception,
    hidden: bool,
) -> None:
    error = fault
    if hidden:
        error = RuntimeError("the backend failed")
        error.__cause__ = fault
    failing(error)
    kept = Changes()
    with pytest.raises(type(fault)) as raised:
        score_slices(models, some_requests(), budget=COMPILED, journal=kept)
    assert raised.value is fault
    assert not kept.changes


def test_what_fails_beside_the_layers_is_not_the_compilers_fault(
    models: dict[str, Gemma3nForCausalLM], traced: Callable[..., None]
) -> None:
    traced()
    kept = Changes()

    def broken(_done: float, _count: int) -> None:
        raise RuntimeError("the bar is gone")

    with pytest.raises(RuntimeError, match="the bar is gone"):
        score_slices(models, some_requests(), budget=COMPILED, progress=broken, journal=kept)
    assert not kept.changes


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
    kept = Journal()
    with pytest.warns(UserWarning, match="slower: no C\\+\\+ compiler was found"):
        score_slices(models, requests, budget=SMALL, journal=kept)
    assert kept.budgets == [SMALL.in_rows()]  # as where a compiler fails


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
