"""The CI gate: did a slice get worse than its baseline, by more than allowed and beyond noise?

The baseline is a YAML file that lives in the repository and reviews well: a table of scores on top,
one line a slice and task, and below it which items each slice got right, 256 a line, so that the
comparison is paired and a diff shows how much really changed.
"""

from __future__ import annotations

import hashlib
import html
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from matformer_lab import frontier
from matformer_lab.atomic import write_atomic
from matformer_lab.errors import InputError, one_line
from matformer_lab.finished import TITLES, Finished, TaskScores, read_finished
from matformer_lab.slices import explain

_LINE = 64  # hex digits, or numbers, on a line of outcomes
_HEADER = """\
# Baseline of `matformer-lab gate`: the scores somebody last called good. Rewritten by --update.
# scores: percent. outcomes: one bit an item (right or wrong), in the order of subject and document,
# 256 items a line, so that a changed line is a changed answer.
"""

Status = Literal["pass", "fail", "undecided", "missing", "new"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TaskBaseline(_Model):
    """What has to stay the same for outcomes to be comparable."""

    metric: str
    num_fewshot: int | None
    n: Annotated[int, Field(ge=1)]
    items: str
    """sha256 over the items' ids, in order."""
    encoding: Literal["bits", "numbers"]


class Baseline(_Model):
    """The baseline file."""

    format: Literal[1] = 1
    parent: str
    fingerprint: str
    tasks: dict[str, TaskBaseline]
    scores: dict[str, dict[str, float]]
    """slice -> task -> percent, for people; the gate computes from `outcomes`."""
    slices: dict[str, str]
    """slice -> digest of its widths and skipped layers."""
    outcomes: dict[str, dict[str, tuple[str, ...]]]


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
        worst = ", ".join(f"{check.slice} on {check.task}" for check in self.failed[:5])
        more = f" and {len(self.failed) - 5} more" if len(self.failed) > 5 else ""
        return f"gate failed: {worst}{more} dropped more than {self._allowed}"

    @property
    def _allowed(self) -> str:
        return f"{self.max_drop:g} points beyond noise"


def run_gate(
    folder: Path,
    baseline: Path,
    max_drop: float = 1.0,
    update: bool = False,
    markdown: Path | None = None,
    junit: Path | None = None,
) -> GateResult:
    """Compare a finished sweep with its baseline; with `update`, make the sweep the baseline.

    A slice fails where even the small end of the paired interval of its drop is over `max_drop`
    points; the intervals of all checks hold together (see `frontier`). `markdown` and `junit` are
    files to write. Raises InputError when the two cannot be compared: no baseline, other items,
    other few-shot count or metric, a slice that has the name but not the widths of the baseline's.
    """
    if not max_drop >= 0:
        raise InputError(f"--max-drop is {max_drop}; give points of score, 0 or more")
    for target in filter(None, (baseline if update else None, markdown, junit)):
        if target.is_dir() or not target.parent.is_dir():
            raise InputError(f"{target}: cannot be written: no such folder, or a folder itself")
    finished = read_finished(folder)
    if update:
        write_atomic(baseline, dump_baseline(make_baseline(finished)).encode())
        result = GateResult(_self_checks(finished), (), max_drop, updated=True)
    else:
        result = compare(finished, load_baseline(baseline), max_drop)
    if markdown is not None:
        write_atomic(markdown, to_markdown(result).encode())
    if junit is not None:
        write_atomic(junit, to_junit(result))
    return result


# --- the baseline file ---


def make_baseline(finished: Finished) -> Baseline:
    """The sweep as a baseline; only tasks with per-item outcomes can be gated."""
    tasks = [task for task in finished.tasks if task.outcomes is not None]
    if not tasks:
        raise InputError(f"{finished.folder}: no task has per-item outcomes, nothing to gate")
    outcomes: dict[str, dict[str, tuple[str, ...]]] = {}
    scores: dict[str, dict[str, float]] = {}
    described = {task.name: _describe(task) for task in tasks}
    for member in finished.members:
        for task in tasks:
            assert task.outcomes is not None
            if member.name in task.slices:
                row = task.outcomes.scores[task.slices.index(member.name)]
                lines = _encode(row, described[task.name].encoding)
                outcomes.setdefault(member.name, {})[task.name] = lines
                value = task.values[task.slices.index(member.name)]
                scores.setdefault(member.name, {})[task.name] = round(100 * value, 2)
    return Baseline(
        parent=finished.parent.name,
        fingerprint=finished.parent.fingerprint,
        tasks=described,
        scores=scores,
        slices={m.name: m.slice.digest for m in finished.members if m.name in outcomes},
        outcomes=outcomes,
    )


def dump_baseline(baseline: Baseline) -> str:
    """The file's text."""
    document = baseline.model_dump(mode="json")
    return _HEADER + yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=1000)


def load_baseline(path: Path) -> Baseline:
    """Raises InputError naming the file and the key at fault."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no baseline yet; make one with --update") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read: {one_line(error)}") from None
    try:
        return Baseline.model_validate(raw)
    except ValidationError as error:
        raise InputError(f"{path}: {explain(error, Baseline)}") from None


def _describe(task: TaskScores) -> TaskBaseline:
    assert task.outcomes is not None
    return TaskBaseline(
        metric=task.metric,
        num_fewshot=task.num_fewshot,
        n=task.outcomes.n,
        items=hashlib.sha256("\n".join(task.item_ids).encode()).hexdigest(),
        encoding="bits" if task.outcomes.binary else "numbers",
    )


def _encode(row: frontier.Floats, encoding: str) -> tuple[str, ...]:
    if encoding == "numbers":
        words = [f"{value:.6g}" for value in row]
        return tuple(" ".join(words[k : k + _LINE]) for k in range(0, len(words), _LINE))
    digits = np.packbits(row.astype(np.uint8)).tobytes().hex()
    return tuple(digits[k : k + _LINE] for k in range(0, len(digits), _LINE))


def _decode(lines: Sequence[str], task: TaskBaseline, where: str) -> frontier.Floats:
    try:
        if task.encoding == "numbers":
            row = np.array([float(word) for line in lines for word in line.split()])
        else:
            bits = np.unpackbits(np.frombuffer(bytes.fromhex("".join(lines)), dtype=np.uint8))
            row = bits.astype(np.float64)[: task.n]
    except ValueError as error:
        raise InputError(f"baseline: outcomes of {where}: {one_line(error)}") from None
    if len(row) != task.n or not np.isfinite(row).all():
        raise InputError(f"baseline: outcomes of {where} are not those of {task.n} items")
    return row


# --- the comparison ---


def compare(finished: Finished, baseline: Baseline, max_drop: float) -> GateResult:
    """Check every slice and task of the baseline. Raises InputError where they do not match."""
    members = {member.name: member for member in finished.members}
    for name, digest in baseline.slices.items():
        if name in members and members[name].slice.digest != digest:
            raise InputError(
                f"slice {name}: its widths or skipped layers are not those of the baseline; "
                "give it another name, or accept it with --update"
            )
    checks: list[Check] = []
    stacked: dict[str, frontier.Outcomes] = {}
    tasks = {task.name: task for task in finished.tasks if task.outcomes is not None}
    for name, before in baseline.tasks.items():
        old = [slice_ for slice_, scores in baseline.outcomes.items() if name in scores]
        task = tasks.get(name)
        if task is None or task.outcomes is None:
            checks += [Check(slice_, name, "missing") for slice_ in old]
            continue
        _check_same(before, _describe(task))
        both = [slice_ for slice_ in old if slice_ in task.slices]
        checks += [Check(slice_, name, "missing") for slice_ in old if slice_ not in task.slices]
        checks += [Check(slice_, name, "new") for slice_ in task.slices if slice_ not in old]
        if both:
            was = [
                _decode(baseline.outcomes[slice_][name], before, f"{slice_} on {name}")
                for slice_ in both
            ]
            now = task.outcomes.scores[[task.slices.index(slice_) for slice_ in both]]
            stacked[name] = frontier.Outcomes(
                slices=(*map(_was, both), *map(_now, both)),
                scores=np.concatenate([np.stack(was), now]),
                strata=task.outcomes.strata,
                weights=task.outcomes.weights,
            )
    checks += [
        Check(slice_, name, "new")
        for name, task in tasks.items()
        if name not in baseline.tasks
        for slice_ in task.slices
    ]
    pairs = [(_was(name), _now(name)) for name in baseline.slices]
    study = frontier.study(stacked, between=pairs)
    for panel in study.panels.values():
        for name in baseline.slices:
            if _was(name) in panel.slices:
                checks.append(_judge(panel, name, max_drop))
    return GateResult(tuple(checks), _notes(finished, baseline), max_drop, updated=False)


def _was(name: str) -> str:
    return f"baseline/{name}"


def _now(name: str) -> str:
    return f"now/{name}"


def _judge(panel: frontier.Panel, name: str, max_drop: float) -> Check:
    found = panel.compare(_was(name), _now(name))
    allowed = max_drop / 100
    status: Status = "pass"
    if found.low > allowed:
        status = "fail"
    elif found.difference > allowed:
        status = "undecided"
    return Check(
        slice=name,
        task=panel.name,
        status=status,
        baseline=float(panel.values[panel.index(_was(name))]),
        now=float(panel.values[panel.index(_now(name))]),
        drop=found.difference,
        low=found.low,
        high=found.high,
        p=found.p_holm,
    )


def _check_same(before: TaskBaseline, now: TaskBaseline) -> None:
    for key in ("metric", "num_fewshot", "n", "items", "encoding"):
        old, new = getattr(before, key), getattr(now, key)
        if old != new:
            what = "the items are others" if key == "items" else f"{key} is {new}, was {old}"
            raise InputError(
                f"the sweep and its baseline cannot be compared: {what}; run the sweep as the "
                "baseline's was (limit, dataset, few-shot), or accept the change with --update"
            )


def _notes(finished: Finished, baseline: Baseline) -> tuple[str, ...]:
    notes = []
    if baseline.fingerprint != finished.parent.fingerprint:
        notes.append("The parent's weights are not those of the baseline.")
    ungated = [task.name for task in finished.tasks if task.outcomes is None]
    if ungated:
        notes.append(f"Not gated, no per-item outcomes: {', '.join(ungated)}.")
    return tuple(notes)


def _self_checks(finished: Finished) -> tuple[Check, ...]:
    return tuple(
        Check(slice_, task.name, "new", now=value)
        for task in finished.tasks
        if task.outcomes is not None
        for slice_, value in zip(task.slices, task.values, strict=True)
    )


# --- what people and CI read ---

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
            f"intervals hold together with {100 * frontier.LEVEL:g} % confidence. A check fails "
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
