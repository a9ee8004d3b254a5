"""The main job: a recipe's slices x tasks -> stored scores -> the tables and the report.

recipe -> slices, plans, loaded tasks -> jobs, each with its key      (jobs)
store  -> which of them are done, new, or stale                       (store)
run    -> the rest, here or on a cluster, each stored when finished      (executor)
write  -> tables and report from the store alone                      (results)
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from matformer_lab.common.errors import InputError
from matformer_lab.common.progress import SweepBar
from matformer_lab.results.results import (
    RESULTS_PARQUET,
    result_rows,
    slices_document,
    write_tables,
)
from matformer_lab.sweep.executor import Executor, LocalExecutor
from matformer_lab.sweep.jobs import DryRun, Job, Prepared, prepare, statuses_of
from matformer_lab.sweep.provenance import as_run_yaml
from matformer_lab.sweep.recipe import Recipe
from matformer_lab.sweep.store import Store

STORE: Final = "store"
_LOCK: Final = ".lock"


def dry_run(recipe: Recipe, out: Path, *, executor: Executor | None = None) -> DryRun:
    """What `run_sweep` would compute, and for how long. Writes nothing."""
    device = (executor or LocalExecutor()).device(recipe)
    return statuses_of(prepare(recipe, device=device).jobs, Store(out / STORE))


def run_sweep(
    recipe: Recipe, out: Path, *, executor: Executor | None = None, report: bool = True
) -> Path:
    """Run a sweep into the folder `out`, continuing what it already holds; returns `out`.

    `executor`: where the scores are computed; None: here.
    Raises `InputError` before anything is written if the input is at fault. On KeyboardInterrupt
    (and after any kill) the folder keeps every finished score and the same call continues.
    """
    _check_out(out)
    executor = executor or LocalExecutor()
    prepared = prepare(recipe, device=executor.device(recipe))
    store = Store(out / STORE)
    if any(store.get(job.key) is None for job in prepared.jobs):
        prepared = executor.fetched(prepared)
    with _locked(out):
        for leftover in out.rglob(".*.tmp"):  # of an earlier sweep that was killed
            leftover.unlink()
        _compute(prepared, store, executor)
        _write(prepared, store, out)
        if report:
            from matformer_lab.report.report import write_report

            write_report(out)
    return out


def _compute(prepared: Prepared, store: Store, executor: Executor) -> None:
    """Score every job that the store does not hold, and store each as it finishes."""
    pending = [job for job in prepared.jobs if store.get(job.key) is None]
    if not pending:
        return
    with SweepBar(pending) as bar:
        for scored in executor.scores(prepared, pending, bar.report):
            store.put(scored.key, scored.score, scored.run)
            bar.stored(scored.key)


# --- output ------------------------------------------------------------------------------------


def _write(prepared: Prepared, store: Store, out: Path) -> None:
    rows: list[dict[str, Any]] = []
    settings = {
        "dtype": prepared.recipe.dtype,
        "device": prepared.device.partition(":")[0],
        "scorer": prepared.recipe.scorer,
        "limit": prepared.recipe.limit,
        "seed": prepared.recipe.seed,
    }
    order = {one.plan.slice.name: position for position, one in enumerate(prepared.sized)}
    device_names: set[str] = set()
    for job in prepared.jobs:
        entry = store.get(job.key)
        assert entry is not None, "computed or found before"
        device_names.add(entry.run.device_name)
        rows += result_rows(job.sized, entry.rows, job.task.metric, settings)
    rows.sort(key=lambda row: order[row["slice"]])  # stable: tasks keep the recipe's order
    write_tables(
        out,
        rows=rows,
        slices=slices_document(prepared.parent, prepared.sized),
        recipe=as_run_yaml(
            prepared.recipe,
            prepared.parent,
            [one.plan.slice for one in prepared.sized],
            prepared.tasks,
            tokenizer=prepared.tokenizer,
            tokenizer_sha256=prepared.tokenizer_sha256,
            device=prepared.device,
            device_names=sorted(device_names),
        ),
        samples=((_samples_path(job), _samples(job, store)) for job in prepared.jobs),
    )


def _samples_path(job: Job) -> str:
    return f"{job.sized.plan.slice.slug}/{job.task.name}.parquet"


def _samples(job: Job, store: Store) -> Any:
    import pyarrow as pa

    table = store.items(job.key)
    for name, value in (("task", job.task.name), ("slice", job.sized.plan.slice.name)):
        table = table.add_column(0, name, pa.array([value] * len(table), pa.string()))
    return table


# --- the folder --------------------------------------------------------------------------------


def _check_out(out: Path) -> None:
    """An existing folder must be empty or a sweep's own."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: exists and is not a folder")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not any((out / name).exists() for name in (STORE, _LOCK, RESULTS_PARQUET)):
        raise InputError(
            f"--out {out}: is not empty and holds no sweep; choose a new or an empty folder"
        )


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """One sweep in a folder at a time. The lock goes with its process, however that ends."""
    from filelock import FileLock, Timeout

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be made ({os.strerror(error.errno or 0)})") from None
    lock = FileLock(out / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"{out}: another sweep is running in this folder; wait for it or use another --out"
        ) from None
    try:
        yield
    finally:
        lock.release()
