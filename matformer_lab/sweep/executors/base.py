"""Where a sweep's scores are computed: what every executor does."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from matformer_lab.evaluation.score import Score
from matformer_lab.sweep.jobs import Job, Prepared
from matformer_lab.sweep.key import Key
from matformer_lab.sweep.recipe import Recipe
from matformer_lab.sweep.store import Run

ShowShare = Callable[[Sequence[Job], float], None]
"""Called with the jobs of a pass and the share of it that is done, 0 to 1."""


@dataclass(frozen=True)
class Scored:
    """A finished score, ready for the store."""

    key: Key
    score: Score
    run: Run


class Executor(Protocol):
    """Computes scores somewhere."""

    def device(self, recipe: Recipe) -> str:
        """The recipe's `device` with `auto` resolved for where the scores are computed."""

    def fetched(self, prepared: Prepared) -> Prepared:
        """`prepared` with whatever weights this process needs on its disk."""

    def scores(
        self, prepared: Prepared, pending: Sequence[Job], show_share: ShowShare
    ) -> Iterator[Scored]:
        """A score for each of the jobs, as they finish. Raises `InputError`."""
