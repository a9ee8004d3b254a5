"""How long a sweep takes, before anything runs: FLOPs of a sample of its requests."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch.utils.flop_counter import FlopCounterMode

import matformer_lab as ml
from matformer_lab.evaluation.evaluate import prefix_requests
from matformer_lab.scoring.batches.packed_work import PackedWork, work_of
from matformer_lab.scoring.batches.packing import Request
from matformer_lab.scoring.batches.token_budget import TokenBudget
from matformer_lab.scoring.calibration import flops_per_second
from matformer_lab.scoring.slice_scoring import batches_of, score_slices
from matformer_lab.slicing.plan import make_plan
from matformer_lab.sweep import estimate as module
from matformer_lab.sweep import run
from matformer_lab.sweep.estimate import Estimate, TaskWork, estimate, pass_flops, task_work
from matformer_lab.sweep.executors.local import LocalExecutor
from matformer_lab.sweep.executors.score_pass import load_elastic
from matformer_lab.sweep.jobs import Prepared, prepare


@pytest.fixture(scope="module")
def prepared(scorable: Path) -> Prepared:
    recipe = {
        "parent": str(scorable),
        "slices": ["1/2", "full", {"name": "two", "widths": [64] * 6 + [32] * 4}],
        "tasks": ["tiny_hellaswag", "tiny_boolq", "tiny_mmlu"],
        "limit": 40,
        "dtype": "float32",
        "device": "cpu",
    }
    return prepare(ml.parse_recipe(recipe))


def test_flops_are_those_that_torch_counts(prepared: Prepared) -> None:
    jobs = [job for job in prepared.jobs if job.task.name == "tiny_hellaswag"]
    elastic = load_elastic(prepared)
    models = elastic.live_together({job.name: job.slice for job in jobs})
    model = next(iter(models.values()))
    asked: list[Request] = prefix_requests(
        model, prepared.tokenizer, jobs[0].task, scorer="prefix"
    )[:24]
    budget = TokenBudget(512)
    with FlopCounterMode(display=False) as counter:
        score_slices(models, asked, budget=budget)
    work = work_of(batches_of(model, asked, budget))
    products = pass_flops(jobs, replace(work, pairs=0, scored_pairs=0))
    # Torch counts AltUp's small products too, and no attention on a CPU.
    assert products == pytest.approx(counter.get_total_flops(), rel=0.1)
    text = prepared.parent.text
    attention = pass_flops(jobs, work) - products
    heads = text.num_attention_heads * text.head_dim
    # "full" and "two" share the first six layers; five of "1/2", "full" and "two" own their K/V.
    own, reusing = 5 + 5, 5 + 5 + 4
    assert attention == 4 * heads * (own * work.pairs + reusing * work.scored_pairs)


def test_a_sample_of_the_items_tells_the_work_of_all(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_elastic(prepared).live("1/2")
    for task in prepared.tasks:
        asked = prefix_requests(model, prepared.tokenizer, task, scorer="prefix")
        work = work_of(batches_of(model, asked, TokenBudget(8192)))
        for chars in (10**9, task.prompt_chars // 3):
            monkeypatch.setattr(module, "_SAMPLED_CHARS", chars)
            found = task_work(task, prepared.tokenizer, prepared.parent.text)
            assert found is not None
            assert found.at().tokens == pytest.approx(work.tokens, rel=0.25)
            assert found.at().scored == pytest.approx(work.scored, rel=0.25)
            assert found.at(10).tokens < found.at(20).tokens < found.at(30).tokens
            assert found.at(10**6) == found.at()


def test_above_an_hour_it_says_which_limit_takes_ten_minutes(prepared: Prepared) -> None:
    quick = estimate(prepared, prepared.jobs, 1e12)
    assert quick is not None and quick.seconds > 0 and quick.short_limit is None
    slow = estimate(prepared, prepared.jobs, 1e12 * quick.seconds / 8000)
    assert slow is not None and slow.seconds == pytest.approx(8000)
    assert slow.short_limit is not None and 1 <= slow.short_limit < 10
    assert str(slow) == f"about 2 h 13 min (`limit` {slow.short_limit} would take ten minutes)"
    hopeless = estimate(prepared, prepared.jobs, 1e12 * quick.seconds / 1e7)
    assert hopeless is not None and hopeless.short_limit == 0
    assert "one item of each task takes more than ten minutes" in str(hopeless)
    assert str(Estimate(0.2)) == "under 1 s"
    assert str(Estimate(200)) == "about 3 min 20 s"


def test_what_lm_eval_computes_has_no_estimate(prepared: Prepared) -> None:
    recipe = prepared.recipe.model_copy(update={"scorer": "lm-eval"})
    assert estimate(replace(prepared, recipe=recipe), prepared.jobs, 1e9) is None


def test_what_items_share_is_counted_once_for_every_full_row() -> None:
    work = TaskWork(PackedWork(tokens=1000), PackedWork(tokens=100), 200)
    assert work.at(10).tokens == 2000
    assert work.at().tokens == 20_000 + 1000 * 20_000 / 8192


def test_a_long_sweep_says_first_how_long_it_takes(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(run, "_WORTH_A_LINE", 0.0)
    recipe = prepared.recipe.model_copy(update={"limit": 2, "slices": ("1/2",)})
    ml.run_sweep(recipe, tmp_path / "out", report=False)
    assert capsys.readouterr().err.startswith("3 scores to compute: ")


def test_the_speed_is_measured_once_and_shared_by_processes(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(prepared.parent, prepared.sized[0].slice, text_only=True)
    speed = flops_per_second(plan, dtype="float32", device="cpu", threads=1)
    assert 0 < speed == flops_per_second(plan, dtype="float32", device="cpu", threads=1)
    one, four = (LocalExecutor(n).estimate(prepared, prepared.jobs) for n in (1, 4))
    assert one is not None and four is not None
    assert one.seconds == pytest.approx(4 * four.seconds)
