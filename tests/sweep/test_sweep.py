"""Sweeps: what the folder holds, what is computed again and what is not, kills and locks."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import yaml

from matformer_lab import tiny
from matformer_lab.checkpoint.write import write_checkpoint
from matformer_lab.common.errors import InputError
from matformer_lab.parent.opening import open_parent
from matformer_lab.results.load import load_results, load_samples
from matformer_lab.slicing.notation.catalog import resolve_slices
from matformer_lab.slicing.plan import make_plan
from matformer_lab.slicing.sizes import sizes_of
from matformer_lab.sweep.recipe import load_recipe, parse_recipe
from matformer_lab.sweep.run import dry_run, run_sweep
from tests.support.at_rename import signal_at_rename
from tests.support.command import interrupted
from tests.support.sweeps import stored

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT.parent / "shared" / "benchmarks"


def recipe_of(parent: Path, **changes: Any) -> dict[str, Any]:
    return {
        "parent": str(parent),
        "slices": ["1/2", "1/4", {"name": "mixed", "widths": {"0-4": "full", "5-9": "1/8"}}],
        "tasks": ["tiny_boolq", "tiny_mmlu"],
        "dtype": "float32",
        "device": "cpu",
        "batch_size": 4,
        "limit": 3,
        **changes,
    }


def run(out: Path, parent: Path, **changes: Any) -> Path:
    return run_sweep(parse_recipe(recipe_of(parent, **changes)), out, report=False)


def states(out: Path, parent: Path, **changes: Any) -> list[tuple[str, str, str]]:
    jobs = dry_run(parse_recipe(recipe_of(parent, **changes)), out).jobs
    return [(s.job.name, s.job.task.name, s.state) for s in jobs]


@pytest.fixture(scope="module")
def finished(scorable: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("sweep") / "out", scorable)


# --- the folder --------------------------------------------------------------------------------


def test_results_have_a_row_for_each_slice_task_and_metric(finished: Path, scorable: Path) -> None:
    results = load_results(finished)
    assert list(results.columns[:9]) == [
        *("slice", "effective_params", "total_params", "task", "metric"),
        *("value", "stderr", "n", "num_fewshot"),
    ]
    top = results[results["group"].isna()]
    assert list(zip(top["slice"], top["task"], strict=True)) == [
        (name, task)
        for name in ("uniform-1-2", "uniform-1-4", "mixed")
        for task in ("tiny_boolq", "tiny_mmlu")
    ]
    assert top["primary"].all()
    parent = open_parent(str(scorable))
    (half,) = resolve_slices(["1/2"], parent)
    size = sizes_of(make_plan(parent, half))
    assert results["effective_params"][0] == size.effective
    assert results["total_params"][0] == size.total
    assert results["value"].between(0, 1).all()
    assert results["published"].isna().all()  # nobody published a score of this parent


def test_csv_and_parquet_agree(finished: Path) -> None:
    pd.testing.assert_frame_equal(
        pd.read_csv(finished / "results.csv", dtype={"task_version": str}),
        load_results(finished),
        check_dtype=False,
    )


def test_scores_are_the_means_of_the_samples(finished: Path) -> None:
    samples = load_samples(finished)
    results = load_results(finished)
    for row in results[results["group"].isna()].itertuples():
        items = samples[(samples["slice"] == row.slice) & (samples["task"] == row.task)]
        assert len(items) == row.n
        assert items[row.metric].mean() == pytest.approx(row.value)
        assert items["logprobs"].map(len).min() >= 2


def test_samples_of_two_slices_pair_up(finished: Path) -> None:
    samples = load_samples(finished, "tiny_mmlu")
    pairs = samples.groupby(["subtask", "doc_id"])["prompt_hash"].agg(["nunique", "size"])
    assert (pairs["nunique"] == 1).all()
    assert (pairs["size"] == 3).all()


def test_slices_json_describes_parent_and_slices(finished: Path) -> None:
    described = json.loads((finished / "slices.json").read_text())
    assert len(described["parent"]["intermediate_size"]) == 10
    mixed = described["slices"][2]
    assert mixed["name"] == "mixed"
    assert mixed["widths"] == [64] * 5 + [8] * 5
    assert mixed["params"]["effective"] < mixed["params"]["text"] == mixed["params"]["total"]


def test_the_recipe_as_run_runs_again_to_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    recipe = load_recipe(finished / "recipe.yaml")
    assert recipe.as_run is not None
    assert recipe.as_run["tokenizer"]["add_bos_token"] is True
    assert {"torch", "transformers", "lm_eval", "matformer_lab"} <= set(recipe.as_run["versions"])
    assert set(recipe.as_run["tasks"]["tiny_mmlu"]) >= {"version", "prompt_hash"}
    again = run_sweep(recipe, tmp_path / "again", report=False)
    assert (again / "results.csv").read_bytes() == (finished / "results.csv").read_bytes()


def test_slices_from_a_file_are_written_out_in_the_recipe_as_run(
    scorable: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\nwidths: 1/4\nskip: 5\n")
    path = tmp_path / "recipe.yaml"
    slices = ["1/2", "mine.yaml", "mine.yaml#mine"]
    path.write_text(yaml.safe_dump(recipe_of(scorable, slices=slices, tasks=["tiny_boolq"])))
    out = run_sweep(load_recipe(path), tmp_path / "out", report=False)
    (tmp_path / "mine.yaml").unlink()
    moved = load_recipe(out / "recipe.yaml")
    mine = {"name": "mine", "widths": [16] * 9, "skip": [5]}
    assert moved.slices == ("1/2", mine, mine)
    assert dry_run(moved, out).pending == ()


def test_the_report_is_made(finished: Path, scorable: Path) -> None:
    run_sweep(parse_recipe(recipe_of(scorable)), finished)
    for name in ("report.html", "frontier.png", "frontier.svg"):
        assert (finished / name).stat().st_size > 1000


# --- what is computed again --------------------------------------------------------------------


def test_a_finished_sweep_computes_nothing(finished: Path, scorable: Path) -> None:
    before = stored(finished)
    assert {state for *_, state in states(finished, scorable)} == {"done"}
    run(finished, scorable)
    assert stored(finished) == before


def test_new_slices_and_tasks_compute_only_what_is_new(scorable: Path, tmp_path: Path) -> None:
    out = run(tmp_path / "out", scorable, slices=["1/2"], tasks=["tiny_boolq"])
    before = stored(out)
    more = {"slices": ["1/4", "1/2"], "tasks": ["tiny_boolq", "tiny_hellaswag"]}
    assert states(out, scorable, **more) == [
        ("uniform-1-4", "tiny_boolq", "new"),
        ("uniform-1-2", "tiny_boolq", "done"),
        ("uniform-1-4", "tiny_hellaswag", "new"),
        ("uniform-1-2", "tiny_hellaswag", "new"),
    ]
    run(out, scorable, **more)
    after = stored(out)
    assert before.items() <= after.items()
    assert len(after) == 4
    # Fewer again: the tables follow the recipe, the store keeps what it has.
    run(out, scorable, slices=["1/4"], tasks=["tiny_hellaswag"])
    assert set(load_results(out)["slice"]) == {"uniform-1-4"}
    assert [p.relative_to(out / "samples").as_posix() for p in out.glob("samples/*/*")] == [
        "uniform-1-4/tiny_hellaswag.parquet"
    ]
    assert stored(out) == after


def test_a_slice_under_another_name_is_the_same_slice(finished: Path, scorable: Path) -> None:
    renamed = [{"name": "half", "widths": "1/2"}]
    assert {state for *_, state in states(finished, scorable, slices=renamed)} == {"done"}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"limit": 4}, "limit 3 -> 4"),
        ({"seed": 7}, "seed 1234 -> 7"),
        ({"dtype": "bfloat16"}, "dtype float32 -> bfloat16"),
        ({"scorer": "lm-eval"}, "scorer prefix v2 -> lm-eval v1"),
        ({"tasks": [{"name": "tiny_mmlu", "num_fewshot": 1}]}, "num_fewshot 5 -> 1"),
    ],
)
def test_a_changed_setting_is_stale_and_says_so(
    finished: Path, scorable: Path, change: dict[str, Any], why: str
) -> None:
    dry = dry_run(parse_recipe(recipe_of(scorable, **change)), finished)
    assert {status.state for status in dry.jobs} == {"stale"}
    assert all(why in status.why for status in dry.jobs)
    assert f"{why}" in str(dry)


def test_another_parent_of_the_same_shape_is_stale(
    finished: Path, scorable: Path, tmp_path: Path
) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    other = shutil.copytree(scorable, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    name = "model.layers.3.mlp.up_proj.weight"
    weights[name] = weights[name] + 1
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    dry = dry_run(parse_recipe(recipe_of(other)), finished)
    assert all(len(s.why) == 1 and s.why[0].startswith("parent ") for s in dry.jobs)


def test_another_tokenizer_is_stale(finished: Path, scorable: Path, tmp_path: Path) -> None:
    import shutil

    other = shutil.copytree(scorable, tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:-1]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    dry = dry_run(parse_recipe(recipe_of(other)), finished)
    assert {status.state for status in dry.jobs} == {"stale"}
    assert all(any(why.startswith("tokenizer ") for why in s.why) for s in dry.jobs)


def test_stale_scores_are_never_mixed_in(scorable: Path, tmp_path: Path) -> None:
    """Half of an old sweep in the folder, and results only of the new one."""
    few = {"slices": ["1/2"], "tasks": ["tiny_boolq"]}
    out = run(tmp_path / "out", scorable, **few, limit=2)
    run(out, scorable, **few, limit=3)
    assert set(load_results(out)["n"]) == {3}
    assert len(load_samples(out)) == 3
    assert len(stored(out)) == 2
    run(out, scorable, **few, limit=2)
    assert set(load_results(out)["n"]) == {2}


# --- dry runs ----------------------------------------------------------------------------------


def test_a_dry_run_writes_nothing_and_estimates_after_something_ran(
    scorable: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    dry = dry_run(parse_recipe(recipe_of(scorable)), out)
    assert dry.seconds is None
    assert dry.estimate is not None and f"time: {dry.estimate}" in str(dry)
    assert not out.exists()
    run(out, scorable, slices=["1/2"], tasks=["tiny_boolq"])
    dry = dry_run(parse_recipe(recipe_of(scorable)), out)
    assert dry.seconds is not None and dry.seconds > 0
    assert len(dry.pending) == 5
    assert "5 of 6 scores to compute" in str(dry)


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"slices": ["e2b-but-better"]}, "no slice named"),
        ({"slices": [{"name": "x", "widths": 65}]}, "layer 0"),
        ({"datasets": "nowhere"}, "no such folder"),
        ({"device": "cuda:63"}, "not available"),
    ],
)
def test_bad_input_leaves_nothing_behind(
    scorable: Path, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        run(tmp_path / "out", scorable, **change)
    assert not (tmp_path / "out").exists()


def test_a_parent_that_is_not_there_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        run(tmp_path / "out", Path("nowhere"))
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_things_in_it_is_refused(scorable: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match="holds no sweep"):
        run(tmp_path, scorable)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_parent_without_a_tokenizer_is_refused(pico: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tokenizer cannot be loaded"):
        run(tmp_path / "out", pico)


def test_results_of_an_unfinished_sweep_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no finished sweep"):
        load_results(tmp_path)


# --- kills, interrupts, locks ------------------------------------------------------------------


def _sweep_in_child(
    recipe: Mapping[str, Any], out: Path, at_rename: int | None, to_itself: signal.Signals
) -> None:
    """Runs a sweep; with `at_rename`, sends itself a signal just before that file appears."""
    os.setpgid(0, 0)
    if at_rename is not None:
        signal_at_rename(at_rename, to_itself)
    run_sweep(parse_recipe(recipe), out, report=False)


@pytest.fixture(scope="module")
def start() -> Callable[..., Any]:
    """Starts a sweep in a fresh process whose libraries are imported already."""
    context = get_context("forkserver")
    context.set_forkserver_preload(
        [
            "matformer_lab.sweep.run",
            "matformer_lab.live.elastic",
            "matformer_lab.evaluation.models.prefix_scorer",
            "lm_eval.evaluator",
            "lm_eval.tasks",
            "lm_eval.models.huggingface",
            "transformers.models.gemma3n.modeling_gemma3n",
            "pandas",
            "pyarrow.parquet",
        ]
    )

    def start_one(
        recipe: Mapping[str, Any],
        out: Path,
        at_rename: int | None = None,
        to_itself: signal.Signals = signal.SIGKILL,
    ) -> Any:
        arguments = (recipe, out, at_rename, to_itself)
        process = context.Process(target=_sweep_in_child, args=arguments)
        process.start()
        return process

    return start_one


def check_killed(out: Path, seen: dict[str, int]) -> dict[str, int]:
    """After a kill: no result pretends to be whole, no score was written twice."""
    now = stored(out)
    assert seen.items() <= now.items()
    return now


def test_a_sweep_killed_at_random_moments_finishes_as_if_undisturbed(
    finished: Path, scorable: Path, tmp_path: Path, start: Callable[..., Any]
) -> None:
    out = tmp_path / "out"
    generator = random.Random(5)
    seen: dict[str, int] = {}
    killed = 0
    while killed < 3:
        process = start(recipe_of(scorable), out)
        goal = len(seen) + generator.randint(1, 2)
        while process.is_alive() and len(stored(out)) < goal:
            time.sleep(0.01)
        time.sleep(generator.uniform(0, 0.2))
        process.kill()
        process.join()
        killed += 1
        seen = check_killed(out, seen)
        if (out / "results.parquet").exists():  # killed after its work was done
            assert (out / "results.csv").read_bytes() == (finished / "results.csv").read_bytes()
            break
    run(out, scorable)
    assert seen.items() <= stored(out).items()
    assert (out / "results.csv").read_bytes() == (finished / "results.csv").read_bytes()
    assert not list(out.rglob("*.tmp"))


@pytest.mark.slow
def test_the_published_slices_killed_ten_times_equal_an_undisturbed_run(tmp_path: Path) -> None:
    """The demo's job through the command line: 16 slices of `tiny`, its three tasks."""
    recipe = tmp_path / "recipe.yaml"
    demo = yaml.safe_load((ROOT / "recipes/demo.yaml").read_text())
    recipe.write_text(yaml.safe_dump(demo | {"slices": ["published"]}))

    def sweep(out: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "matformer_lab", "sweep", str(recipe), "--out", str(out)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL)

    assert sweep(tmp_path / "undisturbed").wait() == 0
    out = tmp_path / "out"
    generator = random.Random(6)
    seen: dict[str, int] = {}
    for kill in range(10):
        process = sweep(out)
        goal = max(len(seen), min(5 * kill, 40))  # the last 8 are one pass, of some seconds
        while process.poll() is None and len(stored(out)) < goal:
            time.sleep(0.01)
        time.sleep(generator.uniform(0, 2 if goal > len(seen) else 5))
        assert process.poll() is None
        process.kill()
        process.wait()
        seen = check_killed(out, seen)
        assert not (out / "results.parquet").exists()
        print(f"kill {kill + 1}: {len(seen)} of 48 scores stored")
    assert sweep(out).wait() == 0
    assert seen.items() <= stored(out).items()  # nothing was scored again
    for name in ("results.csv", "slices.json"):
        assert (out / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()


@pytest.mark.slow
def test_a_sweep_killed_before_every_file_it_writes_finishes_as_if_undisturbed(
    scorable: Path, tmp_path: Path, start: Callable[..., Any]
) -> None:
    """Killed at its 1st rename, then the next run at its 2nd, ... each time in the same folder."""
    few = {"slices": ["1/2", "1/4"], "tasks": ["tiny_boolq", "tiny_hellaswag"], "limit": 2}
    undisturbed = run(tmp_path / "undisturbed", scorable, **few)
    files = len([path for path in undisturbed.rglob("*.*") if path.name != ".lock"])
    assert files == 4 + 4 + 4 + 1  # scores, samples, tables, marker
    renames = files + 1  # the marker gets its name before the scores and before the tables
    for fresh in (True, False):
        out = tmp_path / f"out-{fresh}"
        seen: dict[str, int] = {}
        for die_at in range(1, renames + 1):
            folder = out / str(die_at) if fresh else out
            process = start(recipe_of(scorable, **few), folder, die_at)
            process.join()
            if process.exitcode == 0:
                break
            assert process.exitcode == -signal.SIGKILL
            assert not (folder / "results.parquet").exists()
            if fresh:
                run(folder, scorable, **few)
                same = (folder / "results.csv").read_bytes()
                assert same == (undisturbed / "results.csv").read_bytes()
            else:
                seen = check_killed(out, seen)
        if not fresh:
            run(out, scorable, **few)
            assert seen.items() <= stored(out).items()
            same = (out / "results.csv").read_bytes()
            assert same == (undisturbed / "results.csv").read_bytes()


def test_a_kill_in_a_changed_sweep_never_shows_old_tables_with_new_ones(
    scorable: Path, tmp_path: Path, start: Callable[..., Any]
) -> None:
    few = {"slices": ["1/2"], "tasks": ["tiny_boolq"]}
    out = run(tmp_path / "out", scorable, **few, limit=2)
    # marker, score, marker, samples, slices.json, recipe.yaml, results.csv, results.parquet, marker
    for die_at in range(1, 10):
        start(recipe_of(scorable, **few, limit=3), out, die_at).join()
        limit = yaml.safe_load((out / "recipe.yaml").read_text())["limit"]
        if (out / "results.parquet").exists():
            assert {limit} == set(load_results(out)["n"]) == {len(load_samples(out))}
    run(out, scorable, **few, limit=3)
    assert set(load_results(out)["n"]) == {3}


def test_a_second_sweep_in_a_busy_folder_is_told_so(
    scorable: Path, tmp_path: Path, start: Callable[..., Any]
) -> None:
    out = tmp_path / "out"
    # It stops when it has the lock and a score, and holds the lock for as long as it takes.
    first = start(recipe_of(scorable), out, 2, signal.SIGSTOP)
    while psutil.Process(first.pid).status() != psutil.STATUS_STOPPED:
        assert first.is_alive()
        time.sleep(0.01)
    try:
        with pytest.raises(InputError, match="another sweep is running in this folder"):
            run(out, scorable)
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.join()
    run(out, scorable)  # the lock went with its process


def test_two_sweeps_started_at_once_in_one_folder(
    finished: Path, scorable: Path, tmp_path: Path, start: Callable[..., Any]
) -> None:
    """One at least works; the others are told so, or come when it has finished."""
    out = tmp_path / "out"
    sweeps = [start(recipe_of(scorable), out) for _ in range(2)]
    for sweep in sweeps:
        sweep.join()
    assert {sweep.exitcode for sweep in sweeps} <= {0, 1}  # 1: an error was raised in the child
    assert 0 in {sweep.exitcode for sweep in sweeps}
    assert (out / "results.csv").read_bytes() == (finished / "results.csv").read_bytes()
    before = stored(out)
    assert len(before) == len(stored(finished))
    run(out, scorable)
    assert stored(out) == before


def test_ctrl_c_leaves_a_folder_that_continues(
    finished: Path, scorable: Path, tmp_path: Path
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_of(scorable)))
    out = tmp_path / "out"
    err = interrupted("sweep", path, "--out", out, before_rename=3, cwd=tmp_path)
    assert err.strip() == "interrupted; run the same command again to continue"
    before = stored(out)
    assert 0 < len(before) < 6
    run(out, scorable)
    assert before.items() <= stored(out).items()
    assert (out / "results.csv").read_bytes() == (finished / "results.csv").read_bytes()


# --- against lm_eval's own command line --------------------------------------------------------


def by_command_line(
    checkpoint: Path, task: str, num_fewshot: int, limit: int, data: Path, out: Path
) -> dict[str, Any]:
    """Results of `lm_eval run`, in the data's folder so that dataset ids are found there.

    With a cache of its own: `datasets` takes a like-named folder's old copy for this one.
    """
    arguments = {
        "--model": "hf",
        "--model_args": f"pretrained={checkpoint},dtype=float32,add_bos_token=True",
        "--tasks": task,
        "--num_fewshot": num_fewshot,
        "--limit": limit,
        "--seed": 1234,
        "--batch_size": 4,
        "--device": "cpu",
        "--include_path": tiny.tasks_dir(),
        "--output_path": out,
    }
    command = [sys.executable, "-m", "lm_eval", "run"]
    command += [str(part) for pair in arguments.items() for part in pair]
    cache = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(out / "cache")}
    subprocess.run(command, check=True, cwd=data, env={**os.environ, **cache}, timeout=1800)
    (written,) = out.rglob("results_*.json")
    results: dict[str, Any] = json.loads(written.read_text())
    return results


def check_against_command_line(
    parent: Path, tmp_path: Path, tasks: list[tuple[str, int]], limit: int, data: Path
) -> None:
    named = [{"name": name, "num_fewshot": shots} for name, shots in tasks]
    settings = {"slices": ["1/2"], "tasks": named, "limit": limit, "scorer": "lm-eval"}
    if data != tiny.datasets_dir():
        settings["datasets"] = str(data)
    results = load_results(run(tmp_path / "out", parent, **settings))
    opened = open_parent(str(parent))
    (half,) = resolve_slices(["1/2"], opened)
    write_checkpoint(make_plan(opened, half), tmp_path / "half")
    for name, shots in tasks:
        theirs = by_command_line(tmp_path / "half", name, shots, limit, data, tmp_path / name)
        ours = results[(results["task"] == name) | (results["group"] == name)]
        assert len(ours)
        for row in ours.itertuples():
            assert row.value == theirs["results"][row.task][f"{row.metric},none"]
            stderr = theirs["results"][row.task][f"{row.metric}_stderr,none"]
            assert row.stderr == pytest.approx(stderr, abs=1e-15)
            assert row.num_fewshot == theirs["n-shot"].get(row.task, shots)


@pytest.mark.slow
def test_scores_equal_lm_evals_command_line(scorable: Path, tmp_path: Path) -> None:
    tasks = [("tiny_hellaswag", 3), ("tiny_boolq", 0), ("tiny_mmlu", 2)]
    check_against_command_line(scorable, tmp_path, tasks, 6, tiny.datasets_dir())


@pytest.mark.slow
@pytest.mark.skipif(
    not BENCHMARKS.is_dir(), reason="the benchmark data is not beside this repository"
)
def test_real_tasks_equal_lm_evals_command_line(scorable: Path, tmp_path: Path) -> None:
    tasks = [("hellaswag", 10), ("boolq", 0), ("mmlu", 5)]
    check_against_command_line(scorable, tmp_path, tasks, 2, BENCHMARKS)
