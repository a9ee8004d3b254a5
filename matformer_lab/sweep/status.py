"""Which of a sweep's jobs are done, and how long the rest would take."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from matformer_lab.common.printable import printable
from matformer_lab.common.progress import duration
from matformer_lab.sweep.estimate import Estimate
from matformer_lab.sweep.jobs import Job
from matformer_lab.sweep.scores.store import Store

State = Literal["done", "stale", "new"]


@dataclass(frozen=True)
class JobStatus:
    """What the store says about one job.

    Attributes:
        job: The slice and the task.
        state: "done": its score is stored; "stale": only an outdated one is; "new": none is.
        why: What has changed since a stale job's score was stored.
        seconds: Estimated time to score it: 0 for a job that is done, None while nothing comparable
            has run.
    """

    job: Job
    state: State
    why: tuple[str, ...]
    seconds: float | None


@dataclass(frozen=True)
class DryRun:
    """What a sweep would do, as `dry_run` returns it; `print` shows a line for each job.

    Attributes:
        jobs: The state of every job, in the order of the recipe's tasks.
        estimate: How long the pending jobs take by this machine's speed, where no comparable score
            is stored that would say so.

    Examples:
        >>> import matformer_lab as ml
        >>> recipe = ml.parse_recipe(
        ...     {"parent": "tiny", "slices": ["e2b"], "tasks": ["tiny_boolq"], "limit": 4}
        ... )
        >>> (status,) = ml.dry_run(recipe, "runs/planned").pending
        >>> status.job.name, status.state
        ('e2b', 'new')
    """

    jobs: tuple[JobStatus, ...]
    estimate: Estimate | None = None

    @property
    def pending(self) -> tuple[JobStatus, ...]:
        """The jobs that still have to be scored."""
        return tuple(status for status in self.jobs if status.state != "done")

    @property
    def seconds(self) -> float | None:
        """Estimated seconds of scoring still to do; None where a job has no estimate."""
        estimates = [status.seconds for status in self.pending]
        known = [seconds for seconds in estimates if seconds is not None]
        return sum(known) if len(known) == len(estimates) else None

    @property
    def lines(self) -> tuple[str, ...]:
        """A line for each score, and one for all of them."""
        lines = [
            f"{status.state:5}  {status.job.name}  {status.job.task.name}"
            + (f"  ~ {duration(status.seconds)}" if status.seconds else "")
            + (f"  ({'; '.join(status.why)})" if status.why else "")
            for status in self.jobs
        ]
        if self.seconds is not None:
            total = duration(self.seconds)
        else:
            total = str(self.estimate or "unknown until something has run")
        return (
            *lines,
            f"{len(self.pending)} of {len(self.jobs)} scores to compute; time: {total}",
        )

    def __str__(self) -> str:
        return "\n".join(map(printable, self.lines))


def statuses_of(jobs: Sequence[Job], store: Store) -> DryRun:
    """The state of every job against the store, with estimates from the scores already there."""
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
