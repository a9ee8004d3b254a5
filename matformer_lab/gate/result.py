"""What the gate found, and how people and CI read it: one line, Markdown, JUnit XML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Status = Literal["pass", "fail", "undecided", "missing", "new"]


@dataclass(frozen=True)
class Check:
    """One slice on one task (or their average). Scores are fractions; `drop` is baseline - now."""

    slice: str
    task: str
    status: Status
    baseline: float | None = None
    now: float | None = None
    drop: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None  # exact McNemar, Holm over the gate's checks


@dataclass(frozen=True)
class GateResult:
    """What the gate found. `ok` is False when a slice got worse or went missing."""

    checks: tuple[Check, ...]
    notes: tuple[str, ...]
    max_drop: float
    updated: bool

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.status in ("fail", "missing"))

    @property
    def ok(self) -> bool:
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
        said = []
        if dropped:
            said.append(f"{_some(dropped)} dropped more than {self._allowed}")
        if missing:
            said.append(f"{_some(missing)} missing")
        return f"gate failed: {'; '.join(said)}"

    @property
    def _allowed(self) -> str:
        return f"{self.max_drop:g} points beyond noise"


def _some(checks: Sequence[Check]) -> str:
    shown = ", ".join(f"{check.slice} on {check.task}" for check in checks[:5])
    return shown + (f" and {len(checks) - 5} more" if len(checks) > 5 else "")


def points(fraction: float) -> str:
    return "0.00" if abs(fraction) < 5e-5 else f"{100 * fraction:+.2f}"
