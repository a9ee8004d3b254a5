"""The CI gate: did a slice get worse than its baseline, by more than allowed and beyond noise?"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from matformer_lab.common.atomic import write_atomic
from matformer_lab.common.errors import InputError
from matformer_lab.gate.baseline import (
    Baseline,
    TaskBaseline,
    decode,
    describe,
    dump_baseline,
    load_baseline,
    make_baseline,
)
from matformer_lab.gate.gate_result import Check, GateResult, Status, to_junit, to_markdown
from matformer_lab.results.finished import Finished
from matformer_lab.results.read_sweep import read_finished
from matformer_lab.statistics import frontier, paired


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
    stacked: dict[str, paired.Outcomes] = {}
    tasks = {task.name: task for task in finished.tasks if task.outcomes is not None}
    for name, before in baseline.tasks.items():
        old = [slice_ for slice_, scores in baseline.outcomes.items() if name in scores]
        task = tasks.get(name)
        if task is None or task.outcomes is None:
            checks += [Check(slice_, name, "missing") for slice_ in old]
            continue
        _check_same(name, before, describe(task))
        both = [slice_ for slice_ in old if slice_ in task.slices]
        checks += [Check(slice_, name, "missing") for slice_ in old if slice_ not in task.slices]
        checks += [Check(slice_, name, "new") for slice_ in task.slices if slice_ not in old]
        if both:
            was = [
                decode(baseline.outcomes[slice_][name], before, f"{slice_} on {name}")
                for slice_ in both
            ]
            now = task.outcomes.scores[[task.slices.index(slice_) for slice_ in both]]
            stacked[name] = paired.Outcomes(
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


def _check_same(name: str, before: TaskBaseline, now: TaskBaseline) -> None:
    for key in ("metric", "num_fewshot", "n", "items", "encoding"):
        old, new = getattr(before, key), getattr(now, key)
        if old != new:
            what = "the items are others" if key == "items" else f"{key} is {new}, was {old}"
            raise InputError(
                f"{name}: the sweep and its baseline cannot be compared: {what}; run the sweep as "
                "the baseline's was (limit, dataset, few-shot), or accept the change with --update"
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
