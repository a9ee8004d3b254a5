"""Scores computed on this machine: in this process, or in worker processes of it."""

import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from matformer_lab.live.devices import idle_gpus, resolve_device
from matformer_lab.parent.hub import with_weights
from matformer_lab.slicing.plan import make_plan
from matformer_lab.sweep.bar import say_beforehand
from matformer_lab.sweep.estimate import Estimate, estimate
from matformer_lab.sweep.executors.base import Scored, ShowShare
from matformer_lab.sweep.executors.local_workers import check_workers, usual_workers
from matformer_lab.sweep.executors.score_pass import (
    BegunPass,
    begin_pass,
    finish_pass,
    load_elastic,
    one_thread_is_fastest,
    slices_to_load,
)
from matformer_lab.sweep.jobs import Job, Prepared
from matformer_lab.sweep.passes import passes
from matformer_lab.sweep.recipe import Recipe
from matformer_lab.sweep.scores.pass_journals import journal_of

if TYPE_CHECKING:
    from transformers import Gemma3nForCausalLM

    from matformer_lab.live.elastic import ElasticParent
    from matformer_lab.scoring.journal import Journal
    from matformer_lab.scoring.processes.worker_pool import WorkerPool


class LocalExecutor:
    """Scores on this machine, one pass after the other.

    Of a small parent on a CPU, worker processes score a pass's batches side by side, and those of
    the next two while this process evaluates the answers of one. Scores are the same bytes with any
    number of them.

    Args:
        workers: How many processes score batches; 1: this one alone; None: as many as there are
            cores and memory for, where that saves time.
    """

    def __init__(self, workers: int | None = None) -> None:
        self._workers = workers
        self._kept: _Kept | None = None

    @contextmanager
    def session(self, prepared: Prepared) -> "Iterator[LocalExecutor]":
        """See `Executor`; the weights and the worker processes are kept."""
        with ExitStack() as stack:
            executor = LocalExecutor(self._workers)
            executor._kept = _Kept(prepared, stack)
            try:
                yield executor
            finally:
                executor._kept = None  # whoever still holds the executor does not hold the weights

    def device(self, recipe: Recipe) -> str:
        """See `Executor`."""
        return resolve_device(recipe.device)

    def fetched(self, prepared: Prepared) -> Prepared:
        """See `Executor`."""
        return replace(prepared, parent=with_weights(prepared.parent))

    def estimate(self, prepared: Prepared, pending: Sequence[Job]) -> Estimate | None:
        """See `Executor`."""
        from matformer_lab.scoring.calibration import flops_per_second

        slice_ = pending[0].slice
        small = prepared.device == "cpu" and one_thread_is_fastest(prepared.parent.text)
        speed = flops_per_second(
            make_plan(prepared.parent, slice_, text_only=True),
            dtype=prepared.dtype.name,
            device=prepared.device,
            threads=1 if small else None,
        )
        workers = self._workers or usual_workers(prepared, pending)
        return estimate(prepared, pending, speed * workers)

    def scores(
        self,
        prepared: Prepared,
        pending: Sequence[Job],
        show_share: ShowShare,
        journals: Path | None = None,
    ) -> Generator[Scored]:
        """See `Executor`."""
        if idle := idle_gpus(prepared.device):
            warnings.warn(
                f"{idle} more GPU{'s' * (idle > 1)} of this machine will be idle: after `ray start "
                "--head`, `executor` ray uses all of them",
                stacklevel=2,
            )
        if self._workers is not None:
            check_workers(self._workers, prepared)
        if any(prepared.is_compiled(job.task) for job in pending):
            _say_compiling(prepared.device)
        begun: list[tuple[BegunPass, Journal | None]] = []
        with ExitStack() as stack:
            kept = self._kept or _Kept(prepared, stack)
            elastic, pool = kept.elastic, kept.pool_for(prepared, pending, self._workers)
            ahead = 0 if pool is None else _PASSES_AHEAD
            groups = list(passes(pending))
            if pool is not None:
                # While the last answers are evaluated, the workers have nothing to do. Evaluation
                # takes a time for each item, scoring for each character.
                groups.sort(key=lambda group: group[0].task.prompt_chars / group[0].task.items)
            for group in groups:
                journal = journal_of(group, journals) if journals else None
                started = begin_pass(prepared, elastic, group, journal, pool, kept.firsts)
                begun.append((started, journal))
                if len(begun) > ahead:
                    yield from finish_pass(prepared, elastic, *begun.pop(0), show_share)
            for each in begun:
                yield from finish_pass(prepared, elastic, *each, show_share)


_PASSES_AHEAD: Final = 2
"""Passes that worker processes have, beyond the one whose answers are evaluated meanwhile."""


@dataclass
class _Kept:
    """What is loaded once for one call of `scores`, or for all calls of a session.

    Attributes:
        prepared: Has every slice that will be scored, or one that contains them all.
        stack: Ends the worker processes.
        firsts: Of `live_together`.
    """

    prepared: Prepared
    stack: ExitStack
    firsts: "dict[tuple[int, ...], Gemma3nForCausalLM]" = field(default_factory=dict)
    _pool: "WorkerPool | None" = None

    @cached_property
    def elastic(self) -> "ElasticParent":
        """The parent's weights."""
        return load_elastic(self.prepared)

    def pool_for(
        self, prepared: Prepared, pending: Sequence[Job], workers: int | None
    ) -> "WorkerPool | None":
        """Worker processes; None where this process computes alone.

        Args:
            prepared: What is scored now.
            pending: Likewise.
            workers: How many; None: as many as there are cores and memory for, and work enough.
        """
        if self._pool is None:
            count = workers
            if count is None:
                count = usual_workers(
                    prepared, pending, lambda: self.elastic.live(pending[0].slice)
                )
            if count > 1:
                self._pool = self._opened(count)
        return self._pool

    def _opened(self, count: int) -> "WorkerPool":
        from matformer_lab.scoring.processes.worker_pool import WorkerPool
        from matformer_lab.scoring.processes.worker_process import Opening

        opening = Opening(
            self.elastic.parent,
            tuple(slices_to_load(self.prepared)),
            self.prepared.dtype.name,
            threads=1,
        )
        return self.stack.enter_context(WorkerPool(opening, count))


def _say_compiling(device: str) -> None:
    """Why the first batches take longer than the bar foretells."""
    from matformer_lab.scoring.compiled_layers import compiled_code_folder, why_not_compiled

    if why_not_compiled(device) is None:
        say_beforehand(
            "layers are compiled during the first batches, which takes a minute or more; the code "
            f"is kept in {compiled_code_folder()}"
        )
