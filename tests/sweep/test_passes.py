"""How pending jobs are cut into passes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from matformer_lab.parent.opening import open_parent
from matformer_lab.scoring.slice_trie import TrieNode, build_trie
from matformer_lab.slicing.notation.catalog import resolve_slices
from matformer_lab.slicing.plan import make_plan
from matformer_lab.slicing.sizes import SizedPlan, sizes_of
from matformer_lab.sweep.jobs import Job, Prepared, prepare
from matformer_lab.sweep.passes import SLICES_PER_PASS, pass_cost, passes
from matformer_lab.sweep.recipe import parse_recipe

WIDTHS = st.lists(st.sampled_from([1, 8, 64]), min_size=10, max_size=10)
# Few layers that differ, so that slices share much.
SLICES = st.lists(
    st.tuples(st.integers(0, 9), WIDTHS).map(lambda drawn: [64] * drawn[0] + drawn[1][drawn[0] :]),
    min_size=1,
    max_size=20,
    unique_by=tuple,
)


@pytest.fixture(scope="module")
def prepared(scorable: Path) -> Prepared:
    tasks = ["tiny_boolq", "tiny_mmlu"]
    return prepare(
        parse_recipe({"parent": str(scorable), "tasks": tasks, "limit": 2, "slices": ["1/2"]})
    )


def jobs_of(prepared: Prepared, slices: Sequence[Sequence[int]]) -> list[Job]:
    """For every task, the jobs of slices with these widths."""
    raw = [{"name": f"s{number}", "widths": widths} for number, widths in enumerate(slices)]
    plans = [make_plan(prepared.parent, s) for s in resolve_slices(raw, prepared.parent)]
    return [
        Job(SizedPlan(plan, sizes_of(plan)), one.task, replace(one.key, slice=plan.slice.digest))
        for one in prepared.jobs
        for plan in plans
    ]


def nodes(trie: TrieNode) -> list[TrieNode]:
    return [trie, *(below for child in trie.children for below in nodes(child))]


def names(group: Sequence[Job]) -> list[str]:
    return [job.name for job in group]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(slices=SLICES, workers=st.integers(1, 6))
def test_every_job_is_in_one_pass_that_fits_and_no_branch_that_fits_is_cut(
    prepared: Prepared, slices: list[list[int]], workers: int
) -> None:
    jobs = jobs_of(prepared, slices)
    groups = list(passes(jobs, workers))
    assert sorted(job.key.digest for group in groups for job in group) == sorted(
        job.key.digest for job in jobs
    )
    by_task = [[job for job in jobs if job.task is task] for task in prepared.tasks]
    share = sum(map(pass_cost, by_task)) / workers
    for group in groups:
        assert len({job.task.name for job in group}) == 1
        assert len(group) <= SLICES_PER_PASS
        assert len(group) == 1 or pass_cost(group) <= share
    for of_task in by_task:
        by_name = {job.name: job for job in of_task}
        task = of_task[0].task
        trie = build_trie({name: job.slice.widths for name, job in by_name.items()})
        together = [set(names(group)) for group in groups if group[0].task is task]
        for node in nodes(trie):
            branch = [by_name[name] for name in node.below]
            if len(branch) <= SLICES_PER_PASS and pass_cost(branch) <= share:
                assert any(set(node.below) <= group for group in together)


def test_one_worker_keeps_the_order_of_tasks_and_takes_a_branch_at_a_time(
    prepared: Prepared,
) -> None:
    slices = [[first] * 5 + [last] * 5 for last in (64, 32, 16, 8, 1) for first in (64, 8)]
    groups = list(passes(jobs_of(prepared, slices)))
    assert [group[0].task.name for group in groups] == ["tiny_boolq"] * 2 + ["tiny_mmlu"] * 2
    assert [len(group) for group in groups] == [5, 5, 5, 5]
    assert all(len({job.slice.widths[0] for job in group}) == 1 for group in groups)


def test_more_workers_get_more_and_smaller_passes(prepared: Prepared) -> None:
    slices = [[64] * n + [8] * (10 - n) for n in range(8)]
    counts = [len(list(passes(jobs_of(prepared, slices), workers))) for workers in (1, 2, 4, 999)]
    assert counts == sorted(counts)
    assert counts[0] == 2
    assert counts[-1] == 16


def test_shared_layers_count_once(prepared: Prepared) -> None:
    half, quarter, twin = (
        next(passes(jobs_of(prepared, slices)))
        for slices in ([[64] * 10], [[8] * 10], [[64] * 10, [64] * 9 + [8]])
    )
    (last_layer,) = next(iter(passes(jobs_of(prepared, [[64] * 9 + [8]]))))
    assert pass_cost(half) == pytest.approx(half[0].cost)
    assert pass_cost(quarter) < pass_cost(half)
    assert pass_cost(half) < pass_cost(twin) < pass_cost(half) + 0.2 * last_layer.cost


def test_the_published_slices_fill_two_passes(prepared: Prepared) -> None:
    tiny = open_parent("tiny")
    plans = [make_plan(tiny, one) for one in resolve_slices(["published"], tiny)]
    task, key = prepared.tasks[0], prepared.jobs[0].key
    jobs = [
        Job(SizedPlan(plan, sizes_of(plan)), task, replace(key, slice=plan.slice.digest))
        for plan in plans
    ]
    groups = list(passes(jobs))
    assert [len(group) for group in groups] == [8, 8]
    layers = [
        {name: list(zip(p.kept, p.slice.widths, strict=True)) for name, p in by_name.items()}
        for by_name in ({job.key.slice: job.sized.plan for job in group} for group in groups)
    ]
    # 312 in one pass, 550 one by one (docs/scoring.md).
    assert sum(build_trie(group).layer_forwards() for group in layers) <= 317
