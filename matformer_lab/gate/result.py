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
        status: "fail" and "missing" fail the gate; "undecided" is a drop beyond the allowance that
            noise could explain; "new" is not in the baseline.
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

    Examples:
        >>> import matformer_lab as ml
        >>> result = ml.run_gate("runs/demo", "baseline.yaml")  # doctest: +SKIP
        >>> [(check.slice, check.task) for check in result.failed]  # doctest: +SKIP
        []
    """

    checks: tuple[Check, ...]
    notes: tuple[str, ...]
    max_drop: float
    updated: bool

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks of slices that got worse or went missing."""
        return tuple(check for check in self.checks if check.status in ("fail", "missing"))

    @property
    def ok(self) -> bool:
        """Whether no check failed, or the baseline was updated."""
        return self.updated or not self.failed

    @property
    def summary(self) -> str:
        """One line for a terminal."""
        if self.updated:
            return f"baseline updated ({len(self.checks)} scores)"
        if not self.failed:
            lower = sum(check.status == "undecided" for check in self.checks)
            aside = f"; {lower} lower, within noise" if lower else ""
            checks = f"gate passed: {len(self.checks)} checks"
            return f"{checks}, none dropped more than {self._allowed}{aside}"
        dropped = [check for check in self.failed if check.status == "fail"]
        missing = [check for check in self.failed if check.status == "missing"]
        parts = []
        if dropped:
            parts.append(f"{_some(dropped)} dropped more than {self._allowed}")
        if missing:
            parts.append(f"{_some(missing)} missing")
        return f"gate failed: {'; '.join(parts)}"

    @property
    def _allowed(self) -> str:
        return f"{self.max_drop:g} points beyond noise"


def _some(checks: Sequence[Check]) -> str:
    shown = ", ".join(f"{check.slice} on {check.task}" for check in checks[:5])
    return shown + (f" and {len(checks) - 5} more" if len(checks) > 5 else "")


def points(fraction: float) -> str:
    """A difference of scores in points, with its sign: `+1.50`."""
    return "0.00" if abs(fraction) < 5e-5 else f"{100 * fraction:+.2f}"
