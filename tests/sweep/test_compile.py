"""`compile` in a recipe: when it is on, which scores it makes stale, and what is recorded."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import matformer_lab as ml
from matformer_lab.common.errors import InputError
from matformer_lab.evaluation.evaluate import scorer_version
from matformer_lab.report.page import _notes
from matformer_lab.scoring.compiled_layers import why_not_compiled
from matformer_lab.sweep import jobs
from matformer_lab.sweep.executors import score_pass
from matformer_lab.sweep.executors.local_workers import check_workers
from matformer_lab.sweep.jobs import Prepared, prepare
from matformer_lab.sweep.scores.store import Store

RECIPE: dict[str, Any] = {"parent": "tiny", "slices": ["e2b"], "tasks": ["tiny_boolq"], "limit": 4}


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepare(ml.parse_recipe(RECIPE), device="cpu")


def on(prepared: Prepared, device: str, **changes: Any) -> Prepared:
    return replace(prepared, device=device, recipe=ml.parse_recipe(RECIPE | changes))


@pytest.mark.parametrize(
    ("device", "compile_", "version"),
    [
        ("cpu", "auto", "prefix v2"),
        ("cpu", "off", "prefix v2"),
        ("mps", "auto", "prefix v2"),
        ("cpu", "on", "prefix v2, compiled v1"),
        ("cuda", "off", "prefix v2, budgets v1"),
        ("cuda", "auto", "prefix v2, budgets v1"),  # four items do not repay it
        ("cuda:1", "on", "prefix v2, compiled v1"),
    ],
)
def test_scores_are_stale_only_where_bits_can_differ(
    prepared: Prepared, device: str, compile_: str, version: str
) -> None:
    there = on(prepared, device, compile=compile_)
    assert {job.key.scorer for job in there.jobs} == {version}


def test_lm_evals_own_scorer_knows_nothing_of_it(prepared: Prepared) -> None:
    there = on(prepared, "cuda", compile="on", scorer="lm-eval")
    assert {job.key.scorer for job in there.jobs} == {"lm-eval v1"}


def test_texts_are_not_scored_by_packed_batches(prepared: Prepared) -> None:
    (task,) = prepared.tasks
    request = type("Request", (), {"request_type": "generate_until"})
    leaf = type("Leaf", (), {"instances": [request]})
    writes = replace(task, task_dict={"tasks": {"leaf": leaf}})
    # Incremented since the first release: a CPU's attention changed, and stored texts are stale.
    assert scorer_version("prefix", writes, "cpu") == "prefix v2, texts v2"
    assert scorer_version("prefix", writes, "cuda") == "prefix v2, texts v2"
    assert not on(prepared, "cuda", compile="on").is_compiled(writes)


def test_auto_compiles_on_cuda_where_the_work_repays_it(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    (task,) = prepared.tasks
    monkeypatch.setattr(jobs, "_REPAYS_COMPILING", 1e6)
    assert on(prepared, "cuda").is_compiled(task)
    assert on(prepared, "cuda:1").is_compiled(task)
    assert not on(prepared, "cpu").is_compiled(task)
    assert not on(prepared, "cuda", compile="off").is_compiled(task)


def test_other_values_are_refused() -> None:
    with pytest.raises(InputError, match="compile: should be 'auto', 'on' or 'off'"):
        ml.parse_recipe(RECIPE | {"compile": "sometimes"})


def test_worker_processes_do_not_compile(prepared: Prepared) -> None:
    with pytest.raises(InputError, match="workers score uncompiled log-likelihood requests"):
        check_workers(2, on(prepared, "cpu", compile="on"))


def recorded(out: Path) -> list[Any]:
    (entry,) = Store(out / "store").entries()
    (budgets,) = yaml.safe_load((out / "recipe.yaml").read_text())["as_run"]["budgets"].values()
    assert entry.run.budgets == budgets
    return [each["mode"] for each in budgets]


def test_without_a_compiler_a_sweep_says_so_and_records_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> str:
        raise RuntimeError("InvalidCxxCompiler")

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", none)
    with pytest.warns(UserWarning, match="no C\\+\\+ compiler was found"):
        ml.run_sweep(ml.parse_recipe(RECIPE | {"compile": "on"}), tmp_path / "out", report=False)
    assert recorded(tmp_path / "out") == ["rows"]


def test_scores_of_several_modes_in_one_table_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compiler that was there for one slice and not for the next one."""
    recipe, out = RECIPE | {"compile": "on", "device": "cpu"}, tmp_path / "out"
    monkeypatch.setattr("matformer_lab.scoring.slice_scoring.why_not_compiled", lambda _: "none")
    with monkeypatch.context() as changed, warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*several modes")
        compiled = [{"mode": "compiled", "batch_tokens": 8192}]
        changed.setattr(score_pass, "_budgets", lambda *_: compiled)
        ml.run_sweep(ml.parse_recipe(recipe), out, report=False)
    more = ml.parse_recipe(recipe | {"slices": ["e2b", "full"]})
    with pytest.warns(UserWarning, match=r"^tiny_boolq: .* several modes \(compiled, rows\)"):
        ml.run_sweep(more, out, report=False)
    sweep = ml.read_sweep(out)
    (sentence,) = sweep.mixed_modes
    assert "compile: off" in sentence
    assert sentence in _notes(sweep)


@pytest.mark.slow
@pytest.mark.skipif(why_not_compiled("cpu") is not None, reason="no C++ compiler")
def test_a_sweep_with_compiled_layers_has_the_usual_scores(tmp_path: Path, scorable: Path) -> None:
    recipe = RECIPE | {"parent": str(scorable), "slices": ["full"]}
    usual, compiled = tmp_path / "usual", tmp_path / "compiled"
    ml.run_sweep(ml.parse_recipe(recipe), usual, report=False)
    ml.run_sweep(ml.parse_recipe(recipe | {"compile": "on"}), compiled, report=False)
    assert recorded(compiled) == ["compiled"]
    assert "budgets" not in (usual / "recipe.yaml").read_text()
    ours, theirs = (
        [item["logprobs"] for table in (Store(out / "store"),) for item in _items(table)]
        for out in (compiled, usual)
    )
    assert len(ours) == 4
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other, abs=2e-4)


def _items(store: Store) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    (entry,) = store.entries()
    return list(pq.read_table(entry.path).to_pylist())
