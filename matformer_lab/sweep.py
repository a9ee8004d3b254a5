"""The main job: a recipe's slices x tasks -> stored scores -> the tables and the report.

recipe -> slices, plans, loaded tasks -> jobs, each with its key
store  -> which of them are done, new, or stale
run    -> the rest, one (slice, task) at a time, each stored when finished
write  -> tables and report from the store alone
"""

import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from matformer_lab.catalog import resolve_slices
from matformer_lab.errors import InputError
from matformer_lab.parent import Parent, open_parent
from matformer_lab.plan import make_plan
from matformer_lab.provenance import (
    as_run_yaml,
    device_name,
    library_versions,
    now,
    tokenizer_hash,
)
from matformer_lab.recipe import Recipe
from matformer_lab.results import (
    RESULTS_PARQUET,
    SizedPlan,
    result_rows,
    slices_document,
    write_tables,
)
from matformer_lab.scoring import (
    SCORER_VERSIONS,
    make_lm,
    resolve_device,
    score,
)
from matformer_lab.sizes import sizes_of
from matformer_lab.store import Key, Run, Store
from matformer_lab.tasks import LoadedTask, load_tasks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STORE: Final = "store"
_LOCK: Final = ".lock"
State = Literal["done", "stale", "new"]


@dataclass(frozen=True)
class Job:
    """One (slice, task) and the key its score is stored under."""

    sized: SizedPlan
    task: LoadedTask
    key: Key

    @property
    def cost(self) -> float:
        """Proportional to the expected time: characters of prompt times effective parameters."""
        return float(self.task.prompt_chars) * self.sized.sizes.effective


@dataclass(frozen=True)
class JobStatus:
    """A job against the store. `why`: for a stale one, what changed since its score was stored."""

    job: Job
    state: State
    why: tuple[str, ...]
    seconds: float | None
    """Estimated; None before anything comparable has run, 0 for a finished one."""


@dataclass(frozen=True)
class DryRun:
    """What a sweep would do."""

    jobs: tuple[JobStatus, ...]

    @property
    def pending(self) -> tuple[JobStatus, ...]:
        return tuple(status for status in self.jobs if status.state != "done")

    @property
    def seconds(self) -> float | None:
        """Estimated seconds of scoring still to do."""
        estimates = [status.seconds for status in self.pending]
        known = [seconds for seconds in estimates if seconds is not None]
        return sum(known) if len(known) == len(estimates) else None

    def __str__(self) -> str:
        lines = [
            f"{status.state:5}  {status.job.sized.plan.slice.name}  {status.job.task.name}"
            + (f"  ~{_duration(status.seconds)}" if status.seconds else "")
            + (f"  ({'; '.join(status.why)})" if status.why else "")
            for status in self.jobs
        ]
        total = (
            "unknown until something has run" if self.seconds is None else _duration(self.seconds)
        )
        return "\n".join(
            [*lines, f"{len(self.pending)} of {len(self.jobs)} scores to compute; time: {total}"]
        )


@dataclass(frozen=True)
class Prepared:
    """A recipe opened and checked: everything a sweep needs but the weights."""

    recipe: Recipe
    parent: Parent
    sized: tuple[SizedPlan, ...]
    tasks: tuple[LoadedTask, ...]
    tokenizer: "PreTrainedTokenizerBase"
    tokenizer_sha256: str
    device: str

    @cached_property
    def jobs(self) -> tuple[Job, ...]:
        """Every slice of the first task, then of the next: a task's frontier is whole early on."""
        return tuple(
            Job(sized, task, self._key(sized, task)) for task in self.tasks for sized in self.sized
        )

    def _key(self, sized: SizedPlan, task: LoadedTask) -> Key:
        recipe, parent, libraries = self.recipe, self.parent, library_versions()
        return Key(
            slice=sized.plan.slice.digest,
            task=task.name,
            parent=f"{parent.name}@{parent.revision}" if parent.revision else parent.fingerprint,
            tokenizer=self.tokenizer_sha256,
            task_version=task.version,
            prompt_hash=task.prompt_hash,
            num_fewshot=task.num_fewshot,
            seed=recipe.seed,
            limit=recipe.limit,
            dtype=recipe.dtype,
            device=self.device.partition(":")[0],
            scorer=f"{recipe.scorer} v{SCORER_VERSIONS[recipe.scorer]}",
            lm_eval=libraries["lm_eval"],
            torch=libraries["torch"],
            transformers=libraries["transformers"],
        )


def prepare(recipe: Recipe) -> Prepared:
    """Open the parent, resolve slices, load tasks. Raises `InputError`; writes nothing."""
    parent = open_parent(recipe.parent_ref)
    try:
        slices = resolve_slices(recipe.slices, parent.text, recipe.base)
    except InputError as error:
        raise InputError(f"{recipe.where}: {error}") from None
    sized = tuple(
        SizedPlan(plan, sizes_of(plan)) for plan in (make_plan(parent, s) for s in slices)
    )
    device = resolve_device(recipe.device)
    tokenizer = load_tokenizer(parent)
    tasks = load_tasks(
        recipe.tasks, limit=recipe.limit, seed=recipe.seed, datasets=recipe.datasets_folder
    )
    return Prepared(recipe, parent, sized, tasks, tokenizer, tokenizer_hash(tokenizer), device)


def dry_run(recipe: Recipe, out: Path) -> DryRun:
    """What `run_sweep` would compute, and for how long. Writes nothing."""
    return _statuses(prepare(recipe).jobs, Store(out / STORE))


def run_sweep(recipe: Recipe, out: Path, *, report: bool = True) -> Path:
    """Run a sweep into the folder `out`, continuing what it already holds; returns `out`.

    Raises `InputError` before anything is written if the input is at fault. On KeyboardInterrupt
    (and after any kill) the folder keeps every finished score and the same call continues.
    """
    _check_out(out)
    prepared = prepare(recipe)
    store = Store(out / STORE)
    with _locked(out):
        for leftover in out.rglob("*.tmp"):  # of an earlier sweep that was killed
            leftover.unlink()
        _compute(prepared, store)
        _write(prepared, store, out)
        if report:
            from matformer_lab.report import write_report

            write_report(out)
    return out


# --- jobs -------------------------------------------------------------------------------------


def _statuses(jobs: Sequence[Job], store: Store) -> DryRun:
    runs = [(entry.key, entry.run) for entry in store.entries()]

    def estimate(job: Job) -> float | None:
        comparable = [
            (key["task"], run.seconds / run.cost)
            for key, run in runs
            if (key["scorer"], key["device"]) == (job.key.scorer, job.key.device) and run.cost
        ]
        of_task = [rate for task, rate in comparable if task == job.task.name]
        rates = of_task or [rate for _, rate in comparable]
        return statistics.median(rates) * job.cost if rates else None

    def status(job: Job) -> JobStatus:
        if store.get(job.key) is not None:
            return JobStatus(job, "done", (), 0.0)
        why = store.stale(job.key)
        return JobStatus(job, "stale" if why else "new", why, estimate(job))

    return DryRun(tuple(status(job) for job in jobs))


def _compute(prepared: Prepared, store: Store) -> None:
    """Score every job that the store does not hold, and store each as it finishes."""
    pending = [job for job in prepared.jobs if store.get(job.key) is None]
    if not pending:
        return
    import torch

    from matformer_lab.elastic import ElasticParent
    from matformer_lab.hub import with_weights

    recipe = prepared.recipe
    elastic = ElasticParent.load(
        with_weights(prepared.parent),
        dtype=getattr(torch, recipe.dtype),
        device=prepared.device,
    )
    with _progress(pending) as advance:
        for job in pending:
            began = time.perf_counter()
            lm = make_lm(
                elastic.live(job.sized.plan.slice),
                prepared.tokenizer,
                scorer=recipe.scorer,
                batch_size=recipe.batch_size,
            )
            result = score(lm, job.task)
            run = Run(
                seconds=time.perf_counter() - began,
                prompt_chars=job.task.prompt_chars,
                effective_params=job.sized.sizes.effective,
                batch_size=lm.batch_size,
                device_name=device_name(prepared.device),
                finished=now(),
            )
            store.put(job.key, result, run)
            advance(job)


@contextmanager
def _progress(pending: Sequence[Job]) -> Iterator[Any]:
    """A bar on a terminal or in a notebook, nothing elsewhere. Yields `advance(job)`."""
    from rich import progress
    from rich.console import Console

    console = Console(file=sys.stderr)
    columns = (
        progress.TextColumn("{task.fields[done]}/{task.fields[count]}"),
        progress.BarColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.description}"),
    )
    shown = console.is_terminal or console.is_jupyter
    with progress.Progress(*columns, console=console, transient=True, disable=not shown) as bar:
        names = [f"{job.sized.plan.slice.name} · {job.task.name}" for job in pending]
        total = sum(job.cost for job in pending)
        row = bar.add_task(names[0], total=total, done=0, count=len(pending))
        finished = 0

        def advance(job: Job) -> None:
            nonlocal finished
            finished += 1
            following = names[finished] if finished < len(names) else ""
            bar.update(row, advance=job.cost, done=finished, description=following)

        yield advance


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
    return f"{job.sized.plan.slice.slug}/{job.key.task.replace('/', '-')}.parquet"


def _samples(job: Job, store: Store) -> Any:
    import pyarrow as pa

    table = store.items(job.key)
    for name, value in (("task", job.task.name), ("slice", job.sized.plan.slice.name)):
        table = table.add_column(0, name, pa.array([value] * len(table), pa.string()))
    return table


# --- surroundings ------------------------------------------------------------------------------


def load_tokenizer(parent: Parent) -> "PreTrainedTokenizerBase":
    """The parent's tokenizer, from its folder or (small files only) from the Hub."""
    from transformers import AutoTokenizer

    try:
        if parent.folder is not None:
            return AutoTokenizer.from_pretrained(parent.folder, local_files_only=True)
        return AutoTokenizer.from_pretrained(parent.name, revision=parent.revision)
    except Exception as error:  # many kinds, none of them documented
        from matformer_lab.errors import one_line

        raise InputError(
            f"{parent.ref}: its tokenizer cannot be loaded ({one_line(error)}); scoring needs "
            "tokenizer.json and tokenizer_config.json beside the weights"
        ) from None


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


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
