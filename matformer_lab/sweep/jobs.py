"""A recipe as jobs, one for each (slice, task), and how they stand against the store."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from matformer_lab.common.errors import InputError
from matformer_lab.evaluation.scoring import SCORER_VERSIONS, load_tokenizer, resolve_device
from matformer_lab.evaluation.tasks import LoadedTask, load_tasks
from matformer_lab.parent.parent import Parent, open_parent
from matformer_lab.results.results import SizedPlan
from matformer_lab.slicing.catalog import resolve_slices
from matformer_lab.slicing.plan import make_plan
from matformer_lab.slicing.sizes import sizes_of
from matformer_lab.sweep.provenance import library_versions, tokenizer_hash
from matformer_lab.sweep.recipe import Recipe
from matformer_lab.sweep.store import Key, Store

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
            + (f"  ~ {_duration(status.seconds)}" if status.seconds else "")
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


def prepare(recipe: Recipe, *, device: str | None = None) -> Prepared:
    """Open the parent, resolve slices, load tasks. Raises `InputError`; writes nothing.

    `device`: where the scores are computed, if not on this machine's own.
    """
    parent = open_parent(recipe.parent_ref)
    try:
        slices = resolve_slices(recipe.slices, parent.text, recipe.base)
    except InputError as error:
        raise InputError(f"{recipe.where}: {error}") from None
    sized = tuple(
        SizedPlan(plan, sizes_of(plan)) for plan in (make_plan(parent, s) for s in slices)
    )
    device = device or resolve_device(recipe.device)
    tokenizer = load_tokenizer(parent)
    tasks = load_tasks(
        recipe.tasks, limit=recipe.limit, seed=recipe.seed, datasets=recipe.datasets_folder
    )
    return Prepared(recipe, parent, sized, tasks, tokenizer, tokenizer_hash(tokenizer), device)


def statuses_of(jobs: Sequence[Job], store: Store) -> DryRun:
    """Every job against the store."""
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


def _duration(seconds: float) -> str:
    if seconds < 1:
        return "under 1 s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
