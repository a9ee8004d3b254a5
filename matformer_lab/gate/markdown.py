"""The gate's result as Markdown, for a CI job's summary page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from matformer_lab.common.markdown import Align, escape_markdown, markdown_table
from matformer_lab.gate.result import Check, GateResult, Status, points
from matformer_lab.results.sweep_results import TITLES
from matformer_lab.statistics.paired import LEVEL

_SIGNS: Mapping[Status, str] = {
    "fail": "❌ worse",
    "missing": "❌ missing",
    "new": "❌ not in the baseline",
    "undecided": "⚠️ lower, within noise",
    "pass": "✅",
}
_ALLOWED: Mapping[Status, str] = {
    "missing": "➖ missing, allowed",
    "new": "🆕 not compared",
}
_HEAD: Final = ("slice", "task", "baseline", "now", "change", "interval", "")
_ALIGN: Final[tuple[Align, ...]] = ("left", "left", "right", "right", "right", "center", "left")


def to_markdown(result: GateResult) -> str:
    """The summary: checks that need attention first, the rest folded away."""
    if result.updated:
        title = "Baseline updated"
    else:
        title = "Gate passed ✅" if result.ok else "Gate failed ❌"
    lines = [f"## {title}", "", f"{escape_markdown(result.summary)}.", ""]
    if result.notes:
        lines += [*(f"> {escape_markdown(note)}" for note in result.notes), ""]
    loud = [
        check for check in result.checks if check in result.failed or check.status == "undecided"
    ]
    rest = [check for check in result.checks if check not in loud]
    if loud:
        lines += [_table(loud, result), ""]
    if rest:
        summary = f"<details><summary>{len(rest)} more</summary>"
        lines += [summary, "", _table(rest, result), "", "</details>", ""]
    if not result.updated:
        lines += [
            "Change and interval in points, now minus baseline, paired over the same items; all "
            f"intervals hold together with {100 * LEVEL:g} % confidence. A check fails "
            "where even the mild end of the interval is a drop of more than "
            f"{result.max_drop:g} points.",
            "",
        ]
    return "\n".join(lines)


def _table(checks: Sequence[Check], result: GateResult) -> str:
    return markdown_table(_HEAD, [_cells(check, result) for check in checks], _ALIGN)


def _cells(check: Check, result: GateResult) -> tuple[str, ...]:
    signs = _SIGNS if check in result.failed else {**_SIGNS, **_ALLOWED}
    interval = ""
    if check.low is not None and check.high is not None:
        interval = f"{points(-check.high)} to {points(-check.low)}"
    return (
        check.slice,
        TITLES.get(check.task, check.task),
        "" if check.baseline is None else f"{100 * check.baseline:.2f}",
        "" if check.now is None else f"{100 * check.now:.2f}",
        "" if check.drop is None else points(-check.drop),
        interval,
        signs[check.status],
    )
