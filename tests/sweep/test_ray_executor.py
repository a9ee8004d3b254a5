"""Sweeps on a real Ray cluster: two nodes of one CPU each, on this machine."""

import contextlib
import logging
import os
import pickle
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from matformer_lab.common.errors import InputError
from matformer_lab.parent.opening import open_parent
from matformer_lab.results.load import load_results
from matformer_lab.search import run_search
from matformer_lab.slicing.notation.catalog import resolve_slice
from matformer_lab.slicing.plan import make_plan
from matformer_lab.slicing.sizes import sizes_of
from matformer_lab.sweep.executors.ray_executor import TRIES, RayExecutor, ray_cluster, work_of
from matformer_lab.sweep.executors.ray_worker import Work, score_on_worker
from matformer_lab.sweep.jobs import prepare
from matformer_lab.sweep.recipe import Recipe, parse_recipe
from matformer_lab.sweep.run import run_sweep
from tests.support.command import interrupted
from tests.support.sweeps import stored

# By their full names, as `executors.ray_cluster` may be the function.
cluster_module = import_module(RayExecutor.__module__)
worker_module = import_module(Work.__module__)

NODE = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
SLICES = ["1/2", "1/4", "1/8", {"name": "mixed", "widths": {"0-4": "full", "5-9": "1/8"}}]


def recipe_of(parent: Path, **changes: Any) -> dict[str, Any]:
    return {
        "parent": str(parent),
        "slices": SLICES,
        "tasks": ["tiny_boolq", "tiny_hellaswag", "tiny_mmlu"],
        "dtype": "float32",
        "batch_size": 4,
        "limit": 5,
        **changes,
    }


@pytest.fixture(scope="module")
def local(scorable: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep without a cluster."""
    out = tmp_path_factory.mktemp("local") / "out"
    return run_sweep(parse_recipe(recipe_of(scorable)), out, report=False)


def patiently(start: Callable[[], Any]) -> Any:
    """Ray gives a node 30 s to start, which a busy machine may not keep the first time."""
    for _ in range(2):
        with contextlib.suppress(Exception):
            return start()
    return start()


@dataclass
class TwoNodes:
    cluster: Any
    second: Any = None

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, "RAY_ADDRESS": self.cluster.address}

    def hold_second(self) -> bool:
        """Stop the process of its that runs a pass, if one does: the pass then cannot finish."""
        (raylet,) = self.second.all_processes["raylet"]
        for worker in psutil.Process(raylet.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if "matformer-lab pass" in " ".join(
                    worker.cmdline()
                ):  # the title that Ray gives it
                    worker.suspend()
                    return True
        return False

    def kill_second(self) -> None:
        """SIGKILL for all its processes."""
        self.cluster.remove_node(self.second, allow_graceful=False)

    def add_second(self) -> None:
        self.second = patiently(lambda: self.cluster.add_node(**NODE))


@pytest.fixture(scope="module")
def nodes() -> Iterator[TwoNodes]:
    pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args=NODE))
    try:
        both = TwoNodes(cluster)
        both.add_second()
        yield both
    finally:
        cluster.shutdown()


@pytest.fixture(scope="module")
def session(nodes: TwoNodes) -> Iterator[Any]:
    """This process connected to the cluster, as a notebook is."""
    import ray

    ray.init(address=nodes.cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    yield ray
    ray.shutdown()


@pytest.fixture
def executor(session: Any) -> Iterator[RayExecutor]:
    with ray_cluster() as executor:
        yield executor
    assert session.is_initialized()  # it was the caller's connection


def recipe_and_out(parent: Path, folder: Path) -> tuple[Path, Path]:
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(recipe_of(parent)))
    return recipe, folder / "out"


def start(nodes: TwoNodes, recipe: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "matformer_lab", "sweep", str(recipe), "--out", str(out)]
    return subprocess.Popen(
        [*command, "--executor", "ray"],
        env=nodes.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_node_killed_in_mid_sweep_changes_nothing(
    nodes: TwoNodes, local: Path, scorable: Path, tmp_path: Path
) -> None:
    recipe, out = recipe_and_out(scorable, tmp_path)
    sweep = start(nodes, recipe, out)
    seen: dict[str, int] = {}
    held, at_kill = False, 0
    while sweep.poll() is None:
        held = held or nodes.hold_second()
        now = stored(out)
        assert seen.items() <= now.items()  # no score is ever written again
        seen = now
        if seen and held and not at_kill:
            nodes.kill_second()
            at_kill = len(seen)
        time.sleep(0.02)
    nodes.add_second()
    printed, err = sweep.communicate()
    assert sweep.returncode == 0, err
    assert 0 < at_kill < len(seen)
    assert seen.items() <= stored(out).items()
    same_tables(out, local)
    # The node had a pass, and that is all a user hears of its death.
    assert err.startswith("warning: lost the worker of ")
    assert len(err.splitlines()) == 1
    assert "raylet" not in printed


@pytest.mark.slow
def test_ctrl_c_stops_the_work_on_the_cluster_and_the_sweep_continues(
    nodes: TwoNodes, session: Any, local: Path, scorable: Path, tmp_path: Path
) -> None:
    recipe, out = recipe_and_out(scorable, tmp_path)
    command = ["sweep", recipe, "--out", out, "--executor", "ray"]
    err = interrupted(*command, before_rename=3, cwd=tmp_path, env=nodes.env)
    assert err.strip() == "interrupted; run the same command again to continue"
    before = stored(out)
    assert 0 < len(before) < 12
    deadline = time.monotonic() + 60
    while session.available_resources().get("CPU") != 2:
        assert time.monotonic() < deadline, "a worker goes on"
        time.sleep(0.1)
    run_sweep(parse_recipe(recipe_of(scorable)), out, report=False)  # here: it is the same sweep
    assert before.items() <= stored(out).items()
    assert (out / "results.csv").read_bytes() == (local / "results.csv").read_bytes()


@pytest.mark.slow
def test_a_driver_killed_and_run_again_changes_nothing(
    nodes: TwoNodes, local: Path, scorable: Path, tmp_path: Path
) -> None:
    """SIGKILL for the driver, three times; Ray ends the workers of a driver that is gone."""
    recipe, out = recipe_and_out(scorable, tmp_path)
    seen: dict[str, int] = {}
    for _ in range(3):
        sweep = start(nodes, recipe, out)
        while sweep.poll() is None and len(stored(out)) < len(seen) + 3:
            time.sleep(0.01)
        sweep.kill()
        sweep.communicate()
        now = stored(out)
        assert seen.items() < now.items()  # none was lost, none computed again
        assert sweep.returncode == -signal.SIGKILL or len(now) == 12
        seen = now
        if sweep.returncode:
            assert not (out / "results.parquet").exists()
    sweep = start(nodes, recipe, out)
    _, err = sweep.communicate()
    assert sweep.returncode == 0, err
    assert seen.items() <= stored(out).items()
    same_tables(out, local)


def same_tables(out: Path, local: Path) -> None:
    """What two sweeps found is the same, byte for byte."""
    assert len(stored(out)) == 12
    assert (out / "results.csv").read_bytes() == (local / "results.csv").read_bytes()
    for samples in (local / "samples").glob("*/*"):
        assert (out / samples.relative_to(local)).read_bytes() == samples.read_bytes()


@pytest.mark.slow
def test_a_search_on_the_cluster_finds_the_same_slices(
    executor: RayExecutor, scorable: Path, tmp_path: Path
) -> None:
    parent = open_parent(scorable)
    half = sizes_of(make_plan(parent, resolve_slice("1/2", parent)))
    changes = {
        "slices": ["1/2"],
        "tasks": ["tiny_boolq"],
        "device": "cpu",
        "limit": None,
        "search": {
            "budgets": [{"max_params": half.effective}],
            "widths": ["1/4", "1/2", "full"],
            "skip": "none",
            "evaluations": 40,
            "calibration": {"items": 4},
            "proof": 20,
            "random": 0,
        },
    }
    recipe = parse_recipe(recipe_of(scorable, **changes))
    here = run_search(recipe, tmp_path / "here", progress=False)
    there = run_search(recipe, tmp_path / "there", executor=executor, progress=False)
    assert there.slices_file.read_bytes() == here.slices_file.read_bytes()
    assert there.record.measured == here.record.measured


# --- workers that die --------------------------------------------------------------------------


@pytest.mark.slow
def test_a_cluster_without_memory_is_named_and_what_was_scored_is_kept(
    nodes: TwoNodes, local: Path, scorable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's memory monitor, told that all of the memory is too much, kills every worker."""
    from ray.cluster_utils import Cluster

    recipe, out = recipe_and_out(scorable, tmp_path)
    sweep = start(nodes, recipe, out)
    while sweep.poll() is None and len(stored(out)) < 4:
        time.sleep(0.01)
    sweep.kill()
    sweep.communicate()
    before = stored(out)
    with monkeypatch.context() as patch:
        patch.setenv("RAY_memory_usage_threshold", "0.001")
        patch.setenv("RAY_memory_monitor_refresh_ms", "50")
        full = patiently(lambda: Cluster(initialize_head=True, head_node_args=NODE))
    try:
        sweep = start(TwoNodes(full), recipe, out)
        printed, err = sweep.communicate(timeout=300)
    finally:
        full.shutdown()
    *warnings, error = err.splitlines()
    assert sweep.returncode == 2, err
    assert error.startswith(f"error: {TRIES} workers died while scoring ")
    assert error.endswith("the other scores are stored, and the same command continues")
    assert all(line.startswith("warning: lost the worker of ") for line in warnings), err
    assert "memory" in warnings[0]
    assert "Traceback" not in printed + err
    assert before.items() <= stored(out).items()
    sweep = start(nodes, recipe, out)
    _, err = sweep.communicate()
    assert sweep.returncode == 0, err
    assert before.items() <= stored(out).items()
    same_tables(out, local)


def two_slices(parent: Path) -> Recipe:
    slices = ["1/2", "1/4"]
    changes = {"slices": slices, "tasks": ["tiny_boolq"], "limit": 2, "scorer": "lm-eval"}
    return parse_recipe(recipe_of(parent, **changes))


@pytest.mark.slow
def test_what_came_back_before_a_worker_died_is_not_computed_again(
    executor: RayExecutor, scorable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tmp_path / "asked"

    def dies_after_one_score(work: Work) -> Iterator[Any]:
        with asked.open("a") as file:
            print(*(key.digest for key in work.keys), file=file)
        yield next(score_on_worker(work))
        if len(work.keys) > 1:
            time.sleep(1)  # for the score to arrive
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(cluster_module, "score_on_worker", dies_after_one_score)
    monkeypatch.setattr(cluster_module, "passes", lambda jobs, _: [tuple(jobs)])
    out = run_sweep(two_slices(scorable), tmp_path / "out", executor=executor, report=False)
    digests = [job.key.digest for job in prepare(two_slices(scorable)).jobs]
    lines = [line.split() for line in asked.read_text().splitlines()]
    assert lines == [digests, digests[1:]]
    assert len(load_results(out)) == len(stored(out)) == 2


@pytest.mark.slow
def test_a_pass_whose_workers_all_die_is_named_and_the_rest_is_stored(
    session: Any, scorable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = two_slices(scorable)
    quarter = prepare(recipe).jobs[1].key.digest

    def dies_of_a_quarter(work: Work) -> Iterator[Any]:
        if work.keys[0].digest == quarter:
            os.kill(os.getpid(), signal.SIGKILL)
        yield from score_on_worker(work)

    monkeypatch.setattr(cluster_module, "score_on_worker", dies_of_a_quarter)
    monkeypatch.setattr(cluster_module, "passes", lambda jobs, _: [(job,) for job in jobs])
    warnings: list[str] = []
    with (
        pytest.raises(InputError) as failed,
        ray_cluster(warn=warnings.append) as executor,
    ):
        run_sweep(recipe, tmp_path / "out", executor=executor, report=False)
    assert str(failed.value) == (
        f"{TRIES} workers died while scoring uniform-1-4 on tiny_boolq; the other scores are "
        "stored, and the same command continues"
    )
    assert len(stored(tmp_path / "out")) == 1
    assert not (tmp_path / "out" / "results.csv").exists()
    assert len(warnings) == TRIES
    assert warnings[0].endswith("3 more tries") and warnings[-1].endswith("no more tries")


# --- workers that refuse or fail ---------------------------------------------------------------


def test_what_a_worker_refuses_is_one_line_here(
    executor: RayExecutor, scorable: Path, tmp_path: Path
) -> None:
    parent = shutil.copytree(scorable, tmp_path / "parent")
    prepared = prepare(two_slices(parent))
    jobs = prepared.jobs
    parent.rename(tmp_path / "moved")  # as if the driver alone saw it
    with pytest.raises(InputError) as failed:
        list(executor.scores(prepared, jobs, lambda *_: None))
    assert str(failed.value).startswith(f"worker on {platform.node()}: {parent}: no such folder")
    assert "\n" not in str(failed.value)


def work(parent: Path) -> Work:
    prepared = prepare(two_slices(parent))
    return work_of(prepared, prepared.jobs[:1], sweep=os.urandom(4).hex(), threads=1)


def test_a_worker_with_other_libraries_refuses(scorable: Path) -> None:
    asked = work(scorable)
    other = replace(asked, versions={**asked.versions, "torch": "1.0"})
    with pytest.raises(InputError, match=r"other library versions: torch .* there, 1\.0 here"):
        next(score_on_worker(other))


def test_a_worker_that_sees_another_parent_refuses(scorable: Path) -> None:
    asked = work(scorable)
    other = replace(asked, keys=(replace(asked.keys[0], parent="another"),))
    with pytest.raises(InputError, match=r"parent .* -> another \(there -> here\).*same parent"):
        next(score_on_worker(other))


def test_any_other_exception_of_a_worker_is_one_line_too(
    scorable: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: Any) -> None:
        raise ValueError("bad\nweights")

    monkeypatch.setattr(worker_module, "load_elastic", broken)
    with pytest.raises(InputError, match="scoring tiny_boolq: ValueError: bad weights") as failed:
        next(score_on_worker(work(scorable)))
    assert pickle.loads(pickle.dumps(failed.value)).args == failed.value.args  # Ray sends it
    assert "Traceback" in caplog.text


# --- no cluster, no Ray, wrong device ----------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "says"),
    [("cuda", "has a GPU and 1 CPU for"), ("cuda:1", "one machine's device"), ("mps", "mps")],
)
def test_a_device_that_the_cluster_does_not_have(
    executor: RayExecutor, scorable: Path, tmp_path: Path, device: str, says: str
) -> None:
    recipe = two_slices(scorable).model_copy(update={"device": device})
    with pytest.raises(InputError, match=says):
        run_sweep(recipe, tmp_path / "out", executor=executor, report=False)


def test_a_worker_larger_than_any_node(session: Any, scorable: Path, tmp_path: Path) -> None:
    with (
        ray_cluster(cpus_per_worker=2) as executor,
        pytest.raises(InputError, match="no node of the Ray cluster has 2 CPUs for a worker"),
    ):
        run_sweep(two_slices(scorable), tmp_path / "out", executor=executor, report=False)


def test_without_ray_it_says_what_to_install(cli: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("raise ModuleNotFoundError('No module named ray')\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = cli("sweep", "demo", "--executor", "ray", env={"PYTHONPATH": path})
    assert done.code == 2
    assert done.err == (
        "error: the ray executor needs Ray, which is not installed: "
        "pip install 'matformer-lab[ray]'\n"
    )
    assert not (tmp_path / "runs").exists()


def test_without_a_cluster_it_says_so_at_once(cli: Callable[..., Any], tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    done = cli("sweep", "demo", "--executor", "ray", env={"RAY_ADDRESS": address}, timeout=60)
    assert done.code == 2
    assert done.err.startswith(f"error: no Ray cluster answers at RAY_ADDRESS {address} (")
    assert len(done.err.splitlines()) == 1
    done = cli("sweep", "demo", "--executor", "ray", env={"RAY_ADDRESS": "ray://head:10001"})
    assert done.code == 2
    assert "HOST:PORT" in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--cpus-per-worker", "2"], "--cpus-per-worker needs --executor ray"),
        (["--executor", "ray", "--check", "1"], "--check scores on this machine"),
    ],
)
def test_options_that_do_not_go_together(
    cli: Callable[..., Any], arguments: list[str], says: str
) -> None:
    done = cli("sweep", "demo", *arguments)
    assert done.code == 2
    assert says in done.err
