"""A sweep with several local processes: the same bytes as with one, and a sensible number."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import matformer_lab as ml
from matformer_lab.common.errors import InputError
from matformer_lab.scoring.processes.worker_pool import WorkerPool
from matformer_lab.sweep.executors import local_workers
from matformer_lab.sweep.executors.local import LocalExecutor
from matformer_lab.sweep.executors.local_workers import check_workers, usual_workers
from matformer_lab.sweep.executors.score_pass import load_elastic
from matformer_lab.sweep.jobs import Prepared, prepare
from tests.support.sweeps import stored

RECIPE: dict[str, Any] = {
    "slices": ["1/2", "full"],
    "tasks": ["tiny_boolq", "tiny_hellaswag"],
    "limit": 6,
}


@pytest.mark.slow
def test_two_processes_write_the_bytes_of_one_and_continue_an_interrupted_sweep(
    scorable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools: list[WorkerPool] = []
    original = WorkerPool.__init__

    def seen(self: WorkerPool, *arguments: Any) -> None:
        original(self, *arguments)
        pools.append(self)

    monkeypatch.setattr(WorkerPool, "__init__", seen)
    recipe = ml.parse_recipe(RECIPE | {"parent": str(scorable)})
    one, two = tmp_path / "one", tmp_path / "two"
    ml.run_sweep(recipe, one, executor=LocalExecutor(1), report=False)
    assert not pools

    from matformer_lab.sweep.scores.store import Store

    put = Store.put

    def interrupted(*arguments: Any) -> None:
        put(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, "put", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ml.run_sweep(recipe, two, executor=LocalExecutor(2), report=False)
    assert [worker.process.poll() for worker in pools[0]._workers] == [-9, -9]
    (first,) = stored(two).items()

    ml.run_sweep(recipe, two, executor=LocalExecutor(2), report=False)
    assert len(pools[1].pids) == 2
    assert stored(two)[first[0]] == first[1]
    assert (two / "results.csv").read_bytes() == (one / "results.csv").read_bytes()
    for path in sorted(one.glob("samples/*/*.parquet")):
        assert (two / path.relative_to(one)).read_bytes() == path.read_bytes()


@pytest.fixture(scope="module")
def prepared(scorable: Path) -> Prepared:
    return prepare(ml.parse_recipe(RECIPE | {"parent": str(scorable), "device": "cpu"}))


def test_processes_that_would_share_nothing_are_refused(prepared: Prepared) -> None:
    check_workers(2, prepared)
    with pytest.raises(InputError, match="sweep computes on cuda; leave it out, or use `executor`"):
        check_workers(2, replace(prepared, device="cuda"))
    wide = replace(
        prepared.parent, text=prepared.parent.text.model_copy(update={"hidden_size": 2048})
    )
    with pytest.raises(InputError, match=r"`workers` 2: this parent's products \(hidden size 2048"):
        check_workers(2, replace(prepared, parent=wide))
    recipe = prepared.recipe.model_copy(update={"scorer": "lm-eval"})
    with pytest.raises(InputError, match="for `scorer` prefix, and this sweep has none"):
        check_workers(2, replace(prepared, recipe=recipe))
    check_workers(1, replace(prepared, device="cuda"))


def test_the_usual_number_follows_cores_work_and_memory(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from matformer_lab.live import devices
    from matformer_lab.scoring.batches import token_budget

    model = load_elastic(prepared).live(prepared.sized[0].slice)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)

    def has_free(amount: int) -> None:
        for module in (devices, token_budget):
            monkeypatch.setattr(module, "free_bytes", lambda _: amount)

    def usual(changed: Prepared = prepared) -> int:
        return usual_workers(changed, changed.jobs, lambda: model)

    assert usual() == 1  # a few items: no process starts for them
    monkeypatch.setattr(local_workers, "_COST_PER_WORKER", 1.0)
    has_free(64 << 30)
    assert usual() == 6
    has_free(8 << 30)
    few = usual()
    assert 1 < few < 6
    has_free(1 << 30)
    assert usual() == 1
    wide = replace(
        prepared.parent, text=prepared.parent.text.model_copy(update={"hidden_size": 2048})
    )
    assert usual(replace(prepared, parent=wide)) == 1
    assert usual(replace(prepared, device="cuda")) == 1
    recipe = prepared.recipe.model_copy(update={"scorer": "lm-eval"})
    assert usual(replace(prepared, recipe=recipe)) == 1
