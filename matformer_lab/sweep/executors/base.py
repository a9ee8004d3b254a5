"""What every executor does, wherever it computes a sweep's scores."""

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from matformer_lab.evaluation.score import Score
from matformer_lab.sweep.estimate import Estimate
from matformer_lab.sweep.jobs import Job, Prepared
from matformer_lab.sweep.recipe import Recipe
from matformer_lab.sweep.scores.key import Key
from matformer_lab.sweep.scores.store import Run

ShowShare = Callable[[Sequence[Job], float], None]
"""Called with the jobs of a pass and the share of the pass that is done, 0 to 1."""


@dataclass(frozen=True)
class Scored:
    """A finished score, ready for the store."""

    key: Key
    score: Score
    run: Run


class Executor(Protocol):
    """Computes a sweep's scores somewhere."""

    def device(self, recipe: Recipe) -> str:
        """The recipe's `device`, with `auto` resolved for where the scores are computed.

        Raises:
            InputError: When that place does not have the device.
        """

    def fetched(self, prepared: Prepared) -> Prepared:
        """The same, with the weights that this process needs fetched to its disk.

        Raises:
            InputError: When they cannot be fetched.
        """

    def session(self, prepared: Prepared) -> AbstractContextManager["Executor"]:
        """An executor that keeps what it has loaded from one call of `scores` to the next.

        Args:
            prepared: A sweep whose slices include all that will be scored. Its weights are loaded
                by the first call of `scores`, not here.
        """

    def estimate(self, prepared: Prepared, pending: Sequence[Job]) -> Estimate | None:
        """How long these jobs would take here; None where that is not known.

        Args:
            prepared: The sweep; its weights need not be here.
            pending: Its jobs to score.
        """

    def scores(
        self,
        prepared: Prepared,
        pending: Sequence[Job],
        show_share: ShowShare,
        journals: Path | None = None,
    ) -> Generator[Scored]:
        """Compute scores; closing the generator ends what still computes.

        Args:
            prepared: The sweep.
            pending: Its jobs to score.
            show_share: Told how far each pass is, where that is known.
            journals: A folder for what long passes have computed so far; None keeps nothing.

        Yields:
            A score for each job, as it finishes, in any order.

        Raises:
            InputError: When a score cannot be computed.
        """
