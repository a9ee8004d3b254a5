"""The progress of a sweep: a bar on a terminal or in a notebook, a line a minute elsewhere."""

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Self

from matformer_lab.common.printable import printable
from matformer_lab.common.progress import bar_console, duration

if TYPE_CHECKING:
    from matformer_lab.sweep.jobs import Job
    from matformer_lab.sweep.scores.key import Key


SECONDS_BETWEEN_LINES: Final = 60
SECONDS_BETWEEN_UPDATES: Final = 0.1


def say_beforehand(line: str) -> None:
    """A line on stderr before the bar of a long sweep begins."""
    print(printable(line), file=sys.stderr, flush=True)


class SweepBar:
    """How far a sweep's pending jobs are, in expected time (`Job.cost`).

    Where no bar can be seen, a line on stderr says so once a minute: CI services end jobs that are
    silent for ten.
    """

    def __init__(self, pending: "Sequence[Job]", *, show: bool = True) -> None:
        from rich import progress

        console, visible = bar_console()
        self._bar = progress.Progress(
            progress.TextColumn("{task.fields[stored]}/{task.fields[count]} scores"),
            progress.BarColumn(),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.description}", markup=False),
            console=console,
            transient=True,
            disable=not (show and visible),
        )
        self._has_lines = show and not visible
        self._doing = ""
        self._began = self._last_line = time.monotonic()
        self._last_shown = self._began
        self._costs = {job.key: job.cost for job in pending}
        self._shares: dict[Key, float] = {}
        self._stored: set[Key] = set()
        self._task_id = self._bar.add_task(
            "", total=sum(self._costs.values()), stored=0, count=len(self._costs)
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, group: "Sequence[Job]", share: float) -> None:
        """Show that a share, 0 to 1, of scoring these jobs together is done."""
        if not share:
            slices = ", ".join(job.name for job in group[:2])
            more = f" +{len(group) - 2}" if len(group) > 2 else ""
            self._doing = printable(f"{group[0].task.name} · {slices}{more}")
            self._bar.update(self._task_id, description=self._doing)
        now = time.monotonic()
        if 0 < share < 1 and now - self._last_shown < SECONDS_BETWEEN_UPDATES:
            return  # a small model has thousands of layers a second
        self._last_shown = now
        self._shares |= {job.key: share for job in group}
        self._show()

    def stored(self, key: "Key") -> None:
        """Show that this job's score is in the store."""
        self._shares[key] = 1.0
        self._stored.add(key)
        self._show()

    def _show(self) -> None:
        done = sum(share * self._costs[key] for key, share in self._shares.items())
        self._bar.update(self._task_id, completed=done, stored=len(self._stored))
        now = time.monotonic()
        if self._has_lines and now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            print(self._line(done / sum(self._costs.values()), now), file=sys.stderr, flush=True)

    def _line(self, share: float, now: float) -> str:
        left = ""
        if share:
            left = f", about {duration((now - self._began) * (1 - share) / share)} left"
        return (
            f"{len(self._stored)}/{len(self._costs)} scores, {share:.1%} of the work done{left}: "
            f"{self._doing}"
        )
