"""The main job: a recipe's slices x tasks -> stored scores -> the tables and the report.

recipe -> slices, plans, loaded tasks -> jobs, each with its key      (jobs)
store  -> which of them are done, new, or stale                       (store)
run    -> the rest, one task on some slices at a time, each stored when finished
write  -> tables and report from the store alone                      (results)
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from matformer_lab.errors import InputError
from matformer_lab.gemma3n import TextConfig
from matformer_lab.hub import with_weights
from matformer_lab.jobs import DryRun, Job, Prepared, prepare, statuses_of
from matformer_lab.provenance import as_run_yaml, device_name, now
from matformer_lab.recipe import Recipe
from matformer_lab.results import RESULTS_PARQUET, result_rows, slices_document, write_tables
from matformer_lab.scoring import score_together
from matformer_lab.store import Run, Store

STORE: Final = "store"
_LOCK: Final = ".lock"

# Slices that share layers are scored in one pass, and a pass that is killed is lost. All 16
# published slices in one would save a little more work, and risk twice as much.
SLICES_PER_PASS: Final = 8
_SMALL_HIDDEN_SIZE: Final = 256


def dry_run(recipe: Recipe, out: Path) -> DryRun:
    """What `run_sweep` would compute, and for how long. Writes nothing."""
    return statuses_of(prepare(recipe).jobs, Store(out / STORE))


def run_sweep(recipe: Recipe, out: Path, *, report: bool = True) -> Path:
    """Run a sweep into the folder `out`, continuing what it already holds; returns `out`.

    Raises `InputError` before anything is written if the input is at fault. On KeyboardInterrupt
    (and after any kill) the folder keeps every finished score and the same call continues.
    """
    _check_out(out)
    prepared = prepare(recipe)
    store = Store(out / STORE)
    if any(store.get(job.key) is None for job in prepared.jobs):
        prepared = replace(prepared, parent=with_weights(prepared.parent))
    with _locked(out):
        for leftover in out.rglob(".*.tmp"):  # of an earlier sweep that was killed
            leftover.unlink()
        _compute(prepared, store)
        _write(prepared, store, out)
        if report:
            from matformer_lab.report import write_report

            write_report(out)
    return out


def _compute(prepared: Prepared, store: Store) -> None:
    """Score every job that the store does not hold, and store each as it finishes."""
    pending = [job for job in prepared.jobs if store.get(job.key) is None]
    if not pending:
        return
    import torch

    from matformer_lab.elastic import ElasticParent

    recipe = prepared.recipe
    dtype = getattr(torch, recipe.dtype)
    elastic = ElasticParent.load(prepared.parent, dtype=dtype, device=prepared.device)
    with _threads_for(prepared.parent.text), _progress(pending) as shown:
        for group in passes(pending):
            models = {job.key.slice: elastic.live(job.sized.plan.slice) for job in group}
            by_slice = {job.key.slice: job for job in group}
            scored = score_together(
                models,
                prepared.tokenizer,
                group[0].task,
                scorer=recipe.scorer,
                batch_size=recipe.batch_size,
                progress=shown(group),
            )
            for digest, result, seconds in scored:
                job = by_slice[digest]
                run = Run(
                    seconds=seconds,
                    prompt_chars=job.task.prompt_chars,
                    effective_params=job.sized.sizes.effective,
                    batch_size=recipe.batch_size,
                    device_name=device_name(prepared.device),
                    finished=now(),
                )
                store.put(job.key, result, run)


def passes(pending: Sequence[Job]) -> Iterator[tuple[Job, ...]]:
    """Jobs in the order of their tasks, in groups of one task and of slices with common layers."""
    for task in dict.fromkeys(job.task.name for job in pending):
        jobs = {job.key.slice: job for job in pending if job.task.name == task}
        # Sorted by (parent layer, width), slices that share their first layers are neighbours.
        ordered = sorted(
            jobs.values(),
            key=lambda job: list(
                zip(job.sized.plan.kept, job.sized.plan.slice.widths, strict=True)
            ),
        )
        for start in range(0, len(ordered), SLICES_PER_PASS):
            yield tuple(ordered[start : start + SLICES_PER_PASS])


@contextmanager
def _threads_for(text: TextConfig) -> Iterator[None]:
    """One CPU thread for a model too small to share out.

    The embedded parent's matrices (32 x 64) take less time than waking a second thread: on two
    busy cores the demo needed 36 s of CPU with one thread and 89 to 122 s with two.
    """
    import torch

    before = torch.get_num_threads()
    if text.hidden_size < _SMALL_HIDDEN_SIZE:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _progress(
    pending: Sequence[Job],
) -> Iterator[Callable[[Sequence[Job]], Callable[[float], None]]]:
    """A bar on a terminal or in a notebook, nothing elsewhere.

    Yields a function that takes the jobs of a pass and returns that pass's `progress`.
    """
    from rich import progress
    from rich.console import Console

    console = Console(file=sys.stderr)
    columns = (
        progress.TextColumn("{task.fields[stored]}/{task.fields[count]} scores"),
        progress.BarColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.description}"),
    )
    # In a notebook, rich draws with ipywidgets and warns where they are not installed.
    visible = console.is_terminal or (console.is_jupyter and find_spec("ipywidgets"))
    with progress.Progress(*columns, console=console, transient=True, disable=not visible) as bar:
        row = bar.add_task("", total=sum(job.cost for job in pending), stored=0, count=len(pending))
        finished: list[Job] = []

        def begin(group: Sequence[Job]) -> Callable[[float], None]:
            before = sum(job.cost for job in finished)
            slices = ", ".join(job.sized.plan.slice.name for job in group[:2])
            more = f" +{len(group) - 2}" if len(group) > 2 else ""
            bar.update(
                row,
                completed=before,
                stored=len(finished),
                description=f"{group[0].task.name} · {slices}{more}",
            )
            finished.extend(group)
            cost = sum(job.cost for job in group)
            return lambda share: bar.update(row, completed=before + share * cost)

        yield begin


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
    for job in prepared.jobs:
        entry = store.get(job.key)
        assert entry is not None, "computed or found before"
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
