"""What the gate found, and how people and CI read it: one line, Markdown, JUnit XML."""

from __future__ import annotations

import html
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from matformer_lab.results.finished import TITLES
from matformer_lab.statistics import paired

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


_SIGNS: Mapping[Status, str] = {
    "fail": "❌ worse",
    "missing": "❌ missing",
    "undecided": "⚠️ lower, within noise",
    "pass": "✅",
    "new": "🆕 no baseline",
}


def to_markdown(result: GateResult) -> str:
    """The summary for a job's summary page: failures first, the rest folded away."""
    if result.updated:
        title = "Baseline updated"
    else:
        title = "Gate passed ✅" if result.ok else "Gate failed ❌"
    lines = [f"## {title}", "", f"{_cell(result.summary)}.", ""]
    lines += [f"> {_cell(note)}" for note in result.notes] + ([""] if result.notes else [])
    loud = [check for check in result.checks if check.status in ("fail", "missing", "undecided")]
    rest = [check for check in result.checks if check.status in ("pass", "new")]
    if loud:
        lines += [*_table(loud), ""]
    if rest:
        lines += [
            f"<details><summary>{len(rest)} more</summary>",
            "",
            *_table(rest),
            "",
            "</details>",
        ]
        lines.append("")
    if not result.updated:
        lines += [
            "Change and interval in points, now minus baseline, paired over the same items; all "
            f"intervals hold together with {100 * paired.LEVEL:g} % confidence. A check fails "
            "where even the mild end of the interval is a drop of more than "
            f"{result.max_drop:g} points.",
            "",
        ]
    return "\n".join(lines)


def _table(checks: Sequence[Check]) -> list[str]:
    rows = [
        "| slice | task | baseline | now | change | interval | |",
        "| --- | --- | ---: | ---: | ---: | :---: | --- |",
    ]
    for check in checks:
        interval = ""
        if check.low is not None and check.high is not None:
            interval = f"{_points(-check.high)} to {_points(-check.low)}"
        cells = (
            _cell(check.slice),
            _cell(TITLES.get(check.task, check.task)),
            "" if check.baseline is None else f"{100 * check.baseline:.2f}",
            "" if check.now is None else f"{100 * check.now:.2f}",
            "" if check.drop is None else _points(-check.drop),
            interval,
            _SIGNS[check.status],
        )
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _points(fraction: float) -> str:
    return "0.00" if abs(fraction) < 5e-5 else f"{100 * fraction:+.2f}"


def _cell(text: str) -> str:
    """Text as it is, in Markdown that may hold HTML."""
    escaped = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{char}" if char in "\\|`*_[]!#~" else char for char in escaped)


def to_junit(result: GateResult) -> bytes:
    """JUnit XML: one test case a check; undecided ones pass and say so."""
    root = ET.Element("testsuites", name="matformer-lab gate")
    for task in dict.fromkeys(check.task for check in result.checks):
        checks = [check for check in result.checks if check.task == task]
        bad = 0 if result.updated else sum(check in result.failed for check in checks)
        skipped = sum(check.status == "new" for check in checks)
        suite = ET.SubElement(
            root,
            "testsuite",
            name=_xml(task),
            tests=str(len(checks)),
            failures=str(bad),
            errors="0",
            skipped=str(skipped),
        )
        for check in checks:
            case = ET.SubElement(
                suite, "testcase", classname=_xml(f"gate.{task}"), name=_xml(check.slice), time="0"
            )
            said = _sentence(check, result.max_drop)
            if check.status in ("fail", "missing"):
                ET.SubElement(case, "failure", message=said, type=check.status).text = said
            elif check.status == "new":
                ET.SubElement(case, "skipped", message=said)
            else:
                ET.SubElement(case, "system-out").text = said
    ET.indent(root)
    text: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _sentence(check: Check, max_drop: float) -> str:
    if check.status == "missing":
        return "in the baseline but not in the sweep"
    if check.drop is None or check.low is None or check.high is None:
        return "no baseline"
    assert check.baseline is not None and check.now is not None
    return (
        f"{100 * check.baseline:.2f} -> {100 * check.now:.2f}, a change of {_points(-check.drop)} "
        f"points ({_points(-check.high)} to {_points(-check.low)}); allowed drop {max_drop:g}"
    )


def _xml(text: Any) -> str:
    """Characters that XML 1.0 can hold."""
    return "".join(
        char if char >= " " and char not in "\ufffe\uffff" else "\ufffd" for char in str(text)
    )
