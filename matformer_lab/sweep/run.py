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
from typing import Any

from matformer_lab.common.errors import InputError
from matformer_lab.common.locks import LOCK_FILE, locked
from matformer_lab.common.paths import StrPath, to_path
from matformer_lab.results.description import describe
from matformer_lab.results.files import RESULTS_PARQUET, STORE, samples_file
from matformer_lab.results.rows import result_rows
from matformer_lab.results.write import SamplesTable, write_tables
from matformer_lab.sweep.bar import SweepBar
from matformer_lab.sweep.executors.base import Executor
from matformer_lab.sweep.executors.local import LocalExecutor
from matformer_lab.sweep.jobs import Job, Prepared, prepare
from matformer_lab.sweep.provenance import as_run_yaml
from matformer_lab.sweep.recipe import Recipe, load_recipe
from matformer_lab.sweep.status import DryRun, statuses_of
from matformer_lab.sweep.store import Store


def dry_run(recipe: Recipe | StrPath, out: StrPath, *, executor: Executor | None = None) -> DryRun:
    """What `run_sweep` would compute, and for how long. Writes nothing.

    Args:
        recipe: As for `run_sweep`.
        out: The sweep's folder, which need not exist.
        executor: As for `run_sweep`.

    Returns:
        Every score wanted, done or still to do; `print` shows a line for each.

    Raises:
        InputError: When the recipe is at fault.

    Example:
        >>> import matformer_lab as ml
        >>> print(ml.dry_run("recipes/demo.yaml", "runs/demo"))  # doctest: +SKIP
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    device = (executor or LocalExecutor()).device(recipe)
    return statuses_of(prepare(recipe, device=device).jobs, Store(to_path(out) / STORE))


def run_sweep(
    recipe: Recipe | StrPath,
    out: StrPath,
    *,
    executor: Executor | None = None,
    report: bool = True,
    progress: bool = True,
) -> Path:
    """Run a sweep into the folder `out`, continuing what it already holds.

    On KeyboardInterrupt, and after any kill, the folder keeps every finished score, and the same
    call continues.

    Args:
        recipe: A recipe, or a recipe file.
        out: The sweep's folder: new, empty, or an earlier sweep's.
        executor: Where the scores are computed; None: in this process.
        report: Draw the frontier and write the page too.
        progress: Show a bar where there is a terminal or a notebook.

    Returns:
        `out` as a path, for `load_results`, `read_sweep`, `write_report` or `run_gate`.

    Raises:
        InputError: When the input is at fault, before anything is written.

    Example:
        >>> import matformer_lab as ml
        >>> recipe = ml.parse_recipe(
        ...     {"parent": "tiny", "slices": ["e2b"], "tasks": ["tiny_boolq"], "limit": 4}
        ... )
        >>> ml.run_sweep(recipe, "runs/example").name
        'example'
    """
    out = to_path(out)
    _check_out(out)
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    executor = executor or LocalExecutor()
    prepared = prepare(recipe, device=executor.device(recipe))
    store = Store(out / STORE)
    if any(store.get(job.key) is None for job in prepared.jobs):
        prepared = executor.fetched(prepared)
    with _locked(out):
        for leftover in out.rglob(".*.tmp"):  # of an earlier sweep that was killed
            leftover.unlink()
        _compute(prepared, store, executor, progress)
        _write(prepared, store, out)
        if report:
            from matformer_lab.report.write import write_report

            write_report(out)
    return out


def _compute(prepared: Prepared, store: Store, executor: Executor, progress: bool) -> None:
    """Score every job that the store does not hold, and store each as it finishes."""
    pending = [job for job in prepared.jobs if store.get(job.key) is None]
    if not pending:
        return
    with SweepBar(pending, show=progress) as bar:
        for scored in executor.scores(prepared, pending, bar.advance):
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
    order = {one.name: position for position, one in enumerate(prepared.sized)}
    device_names: set[str] = set()
    for job in prepared.jobs:
        entry = store.get(job.key)
        assert entry is not None, "computed or found before"
        device_names.add(entry.run.device_name)
        rows += result_rows(job.sized, entry.metrics, job.task.metric, settings)
    rows.sort(key=lambda row: order[row["slice"]])  # stable: tasks keep the recipe's order
    write_tables(
        out,
        rows=rows,
        description=describe(prepared.parent, prepared.sized),
        recipe=as_run_yaml(
            prepared.recipe,
            prepared.parent,
            [one.slice for one in prepared.sized],
            prepared.tasks,
            tokenizer=prepared.tokenizer,
            tokenizer_sha256=prepared.tokenizer_sha256,
            device=prepared.device,
            device_names=sorted(device_names),
        ),
        samples=(
            SamplesTable(samples_file(job.slice.slug, job.task.name), _samples(job, store))
            for job in prepared.jobs
        ),
    )


def _samples(job: Job, store: Store) -> Any:
    import pyarrow as pa

    table = store.items(job.key)
    for name, value in (("task", job.task.name), ("slice", job.name)):
        table = table.add_column(0, name, pa.array([value] * len(table), pa.string()))
    return table


# --- the folder --------------------------------------------------------------------------------


def _check_out(out: Path) -> None:
    """An existing folder must be empty or a sweep's own."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: exists and is not a folder")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not any((out / name).exists() for name in (STORE, LOCK_FILE, RESULTS_PARQUET)):
        raise InputError(f"{out}: is not empty and holds no sweep; choose a new or an empty folder")


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """One sweep in a folder at a time."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be made ({os.strerror(error.errno or 0)})") from None
    busy = f"{out}: another sweep is running in this folder; wait for it or use another folder"
    with locked(out, busy):
        yield
