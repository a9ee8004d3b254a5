"""A sweep that is stopped in the middle of a pass: what was computed is not computed again."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import matformer_lab as ml
from matformer_lab.common.errors import InputError
from matformer_lab.scoring import journal, slice_scoring
from matformer_lab.scoring.batches.token_budget import TokenBudget


class Batches:
    count = 0


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> Batches:
    counted, compute = Batches(), slice_scoring.score_batch

    def score_batch(*args: Any) -> Any:
        counted.count += 1
        return compute(*args)

    monkeypatch.setattr(slice_scoring, "score_batch", score_batch)
    monkeypatch.setattr(slice_scoring, "budget_for", lambda *_, **__: TokenBudget(96, 96))
    monkeypatch.setattr(journal, "_SECONDS_BETWEEN_WRITES", -1.0)
    return counted


def run(parent: Path, out: Path, **changes: Any) -> None:
    recipe: dict[str, Any] = {
        "parent": str(parent),
        "slices": ["1/2", "full"],
        "tasks": ["tiny_boolq"],
        "limit": 30,
    }
    ml.run_sweep(ml.parse_recipe(recipe | changes), out, report=False, progress=False)


@pytest.fixture
def stopped(batches: Batches) -> Callable[[Path, Path, int], None]:
    """A sweep that Ctrl-C ends after some batches."""

    def stop(parent: Path, out: Path, after: int) -> None:
        with pytest.MonkeyPatch.context() as patch:
            compute = slice_scoring.score_batch

            def score_batch(*args: Any) -> Any:
                if batches.count == after:
                    raise KeyboardInterrupt
                return compute(*args)

            patch.setattr(slice_scoring, "score_batch", score_batch)
            with pytest.raises(KeyboardInterrupt):
                run(parent, out)

    return stop


def test_the_same_bytes_without_computing_twice(
    scorable: Path, tmp_path: Path, batches: Batches, stopped: Callable[[Path, Path, int], None]
) -> None:
    run(scorable, tmp_path / "undisturbed")
    count, batches.count = batches.count, 0
    assert count >= 4

    out = tmp_path / "stopped"
    stopped(scorable, out, 3)
    assert list(out.glob("store/unfinished/*.journal")) and not list(out.glob("store/*/*.parquet"))
    batches.count = 0
    run(scorable, out)
    assert batches.count == count - 3
    assert not (out / "store" / "unfinished").exists()
    for path in sorted(tmp_path.glob("undisturbed/samples/*/*.parquet")):
        same = out / path.relative_to(tmp_path / "undisturbed")
        assert same.read_bytes() == path.read_bytes()
    both = [ml.load_results(folder) for folder in (tmp_path / "undisturbed", out)]
    assert both[0].equals(both[1])


def test_another_recipe_computes_for_itself_and_a_strangers_file_stays(
    scorable: Path, tmp_path: Path, batches: Batches, stopped: Callable[[Path, Path, int], None]
) -> None:
    out = tmp_path / "out"
    stopped(scorable, out, 3)
    mine = out / "store" / "unfinished" / "mine.journal"
    mine.write_text("mine")
    batches.count = 0
    run(scorable, out, seed=7)
    again = batches.count
    batches.count = 0
    run(scorable, tmp_path / "fresh", seed=7)
    assert again == batches.count
    assert [path.name for path in mine.parent.iterdir()] == ["mine.journal"]
    assert mine.read_text() == "mine"


def test_where_no_bar_is_seen_a_line_a_minute_says_how_far_it_is(
    scorable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    clock = [0.0]

    def half_a_minute_later() -> float:
        clock[0] += 30.0
        return clock[0]

    monkeypatch.setattr("matformer_lab.sweep.bar.time.monotonic", half_a_minute_later)
    recipe = ml.parse_recipe(
        {"parent": str(scorable), "slices": ["1/2"], "tasks": ["tiny_boolq"], "limit": 2}
    )
    ml.run_sweep(recipe, tmp_path / "lines", report=False)
    lines = capsys.readouterr().err.splitlines()
    assert lines and all("of the work done" in line for line in lines)
    assert "left: tiny_boolq · uniform-1-2" in lines[-1]
    ml.run_sweep(recipe, tmp_path / "quiet", report=False, progress=False)
    assert not capsys.readouterr().err


# --- the journal of a pass on another machine ----------------------------------------------------


def test_a_worker_that_died_is_continued_from_the_records_it_sent(
    scorable: Path, tmp_path: Path, batches: Batches
) -> None:
    from matformer_lab.sweep.executors.base import Scored
    from matformer_lab.sweep.executors.ray_executor import _Running, work_of
    from matformer_lab.sweep.executors.ray_worker import score_on_worker
    from matformer_lab.sweep.jobs import prepare

    recipe = {
        "parent": str(scorable),
        "slices": ["1/2", "full"],
        "tasks": ["tiny_boolq"],
        "limit": 30,
    }
    prepared = prepare(ml.parse_recipe(recipe))
    group = tuple(prepared.jobs)
    whole = work_of(prepared, group, sweep="one", threads=1)
    undisturbed = [each for each in score_on_worker(whole) if isinstance(each, Scored)]
    count, batches.count = batches.count, 0

    running = _Running.of(group, tmp_path)
    assert running.journal is not None
    with pytest.MonkeyPatch.context() as patch, pytest.raises(InputError, match="its end"):
        compute = slice_scoring.score_batch

        def score_batch(*args: Any) -> Any:
            if batches.count == 3:
                raise RuntimeError("its end")
            return compute(*args)

        patch.setattr(slice_scoring, "score_batch", score_batch)
        for each in score_on_worker(replace(whole, records=())):
            assert running.received(each) is None  # a record: scores come at the end
    running = running.again(tmp_path)
    assert running.journal is not None and running.group == group and running.tries == 2
    records = tuple(running.journal.records())
    assert len(records) == 1 + 3

    batches.count = 0
    again = [running.received(each) for each in score_on_worker(replace(whole, records=records))]
    assert [each.score for each in again if each] == [each.score for each in undisturbed]
    assert not running.jobs and batches.count == count - 3
    running.journal.flush()
    assert len(running.journal.records()) == 1 + count


def test_where_nothing_was_recorded_only_what_is_left_is_started_again(
    scorable: Path, tmp_path: Path
) -> None:
    from matformer_lab.sweep.executors.ray_executor import _Running
    from matformer_lab.sweep.jobs import prepare

    recipe = {"parent": str(scorable), "slices": ["1/2", "full"], "tasks": ["tiny_boolq"]}
    group = tuple(prepare(ml.parse_recipe(recipe | {"limit": 2})).jobs)
    for journals in (None, tmp_path):
        running = _Running.of(group, journals)
        running.jobs = group[1:]
        again = running.again(journals)
        assert (again.group, again.jobs, again.tries) == (group[1:], group[1:], 2)
