"""What the gate found, as Markdown for a job's summary page."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from matformer_lab.gate.result import Check, GateResult, Status, points
from matformer_lab.results.sweep_results import TITLES
from matformer_lab.statistics.paired import LEVEL

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
            f"intervals hold together with {100 * LEVEL:g} % confidence. A check fails "
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
            interval = f"{points(-check.high)} to {points(-check.low)}"
        cells = (
            _cell(check.slice),
            _cell(TITLES.get(check.task, check.task)),
            "" if check.baseline is None else f"{100 * check.baseline:.2f}",
            "" if check.now is None else f"{100 * check.now:.2f}",
            "" if check.drop is None else points(-check.drop),
            interval,
            _SIGNS[check.status],
        )
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _cell(text: str) -> str:
    """Text as it is, in Markdown that may hold HTML."""
    escaped = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{char}" if char in "\\|`*_[]!#~" else char for char in escaped)
