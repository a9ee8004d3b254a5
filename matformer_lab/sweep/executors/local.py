"""Scores computed in this process."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from matformer_lab.live.devices import resolve_device
from matformer_lab.parent.hub import with_weights
from matformer_lab.sweep.executors.base import Scored, ShowShare
from matformer_lab.sweep.executors.score_pass import load_elastic, score_pass
from matformer_lab.sweep.jobs import Job, Prepared
from matformer_lab.sweep.pass_journals import journal_of
from matformer_lab.sweep.passes import passes
from matformer_lab.sweep.recipe import Recipe


class LocalExecutor:
    """Scores in this process, one pass after the other."""

    def device(self, recipe: Recipe) -> str:
        """See `Executor`."""
        return resolve_device(recipe.device)

    def fetched(self, prepared: Prepared) -> Prepared:
        """See `Executor`."""
        return replace(prepared, parent=with_weights(prepared.parent))

    def scores(
        self,
        prepared: Prepared,
        pending: Sequence[Job],
        show_share: ShowShare,
        journals: Path | None = None,
    ) -> Iterator[Scored]:
        """See `Executor`."""
        elastic = load_elastic(prepared)
        for group in passes(pending):
            journal = journal_of(group, journals) if journals else None
            yield from score_pass(prepared, elastic, group, show_share, journal)
