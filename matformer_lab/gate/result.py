"""What the gate found, check by check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Status = Literal["pass", "fail", "undecided", "missing", "new"]


@dataclass(frozen=True)
class Check:
    """One slice on one task, or on the average of all.

    Attributes:
        slice: Its name.
        task: Its name, or `study.AVERAGE`.
        status: "fail" fails the gate, and so do "missing" (from the sweep) and "new" (not in the
            baseline) unless they are allowed; "undecided" is a drop beyond the allowance that noise
            could explain.
        baseline: Score then, as a fraction; this and what follows is None where it is unknown.
        now: Score now, as a fraction.
        drop: baseline - now.
        low: Lower end of the drop's simultaneous interval.
        high: Its upper end.
        p: Exact McNemar p-value, Holm-corrected over the gate's checks.
    """

    slice: str
    task: str
    status: Status
    baseline: float | None = None
    now: float | None = None
    drop: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None


@dataclass(frozen=True)
class GateResult:
    """What the gate found.

    Attributes:
        checks: One for each slice and task, and for the average of the tasks.
        notes: Sentences about what limits the comparison.
        max_drop: Points of score that a slice was allowed to lose.
        updated: Whether the baseline was rewritten instead of compared with.
        allowed: What does not fail the gate though it was not compared: "new", "missing".

    Examples:
        >>> import matformer_lab as ml
        >>> result = ml.run_gate("runs/demo", "baseline.yaml")
        >>> [(check.slice, check.task) for check in result.failed]
        []
    """

    checks: tuple[Check, ...]
    notes: tuple[str, ...]
    max_drop: float
    updated: bool
    allowed: frozenset[Status] = frozenset()

    @property
    def compared(self) -> tuple[Check, ...]:
        """The checks that have a score on both sides."""
        return tuple(check for check in self.checks if check.status not in ("new", "missing"))

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks of slices that got worse, or that are on one side only without leave."""
        failing = {"fail", "missing", "new"} - self.allowed
        if self.updated:
            return ()
        return tuple(check for check in self.checks if check.status in failing)

    @property
    def ok(self) -> bool:
        """Whether no check failed, or the baseline was updated."""
        return not self.failed

    @property
    def summary(self) -> str:
        """One line for a terminal."""
        if self.updated:
            return f"baseline updated ({len(self.checks)} scores)"
        by_status = {
            status: [check for check in self.checks if check.status == status]
            for status in ("fail", "missing", "new", "undecided")
        }
        if self.failed:
            said = {
                "fail": f"dropped more than {self._allowed}",
                "missing": "missing from the sweep",
                "new": "not in the baseline",
            }
            parts = [
                f"{_some(by_status[status])} {words}"
                for status, words in said.items()
                if by_status[status] and status not in self.allowed
            ]
            return f"gate failed: {'; '.join(parts)}"
        said = {
            "undecided": "lower, within noise",
            "new": "new, not compared",
            "missing": "missing, not compared",
        }
        asides = [
            f"; {len(by_status[status])} {words}"
            for status, words in said.items()
            if by_status[status]
        ]
        checks = f"gate passed: {len(self.compared)} checks"
        return f"{checks}, none dropped more than {self._allowed}{''.join(asides)}"

    @property
    def _allowed(self) -> str:
        return f"{self.max_drop:g} points beyond noise"


def _some(checks: Sequence[Check]) -> str:
    shown = ", ".join(f"{check.slice} on {check.task}" for check in checks[:5])
    return shown + (f" and {len(checks) - 5} more" if len(checks) > 5 else "")


def points(fraction: float) -> str:
    """A difference of scores in points, with its sign: `+1.50`."""
    return "0.00" if abs(fraction) < 5e-5 else f"{100 * fraction:+.2f}"
