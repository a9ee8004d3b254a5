"""A finished sweep against a baseline, check by check."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from matformer_lab.common.errors import InputError
from matformer_lab.gate.baseline import Baseline, TaskBaseline, decode, describe_task
from matformer_lab.gate.result import Check, GateResult, Status
from matformer_lab.results.pairing import Change, Sides, changes, check_comparable
from matformer_lab.results.sweep_results import SweepResults


def compare(sweep: SweepResults, baseline: Baseline, max_drop: float) -> GateResult:
    """Check every slice on every task of the baseline, and list what the baseline does not have.

    Args:
        sweep: What was scored now.
        baseline: What it is compared with.
        max_drop: Points of score that a slice may lose.

    Raises:
        InputError: When a slice's widths, or a task's items, metric or few-shot count, are not
            those of the baseline.
    """
    digests = {scored.name: scored.slice.digest for scored in sweep.scored}
    for name, digest in baseline.slices.items():
        if digests.get(name, digest) != digest:
            raise InputError(
                f"slice {name}: its widths or skipped layers are not those of the baseline; "
                "rename it, or accept it with `update=True`"
            )
    checks: list[Check] = []
    both: dict[str, Sides] = {}
    tasks = {task.name: task for task in sweep.tasks if task.outcomes is not None}
    for name, before in baseline.tasks.items():
        old = [slice_ for slice_, scores in baseline.outcomes.items() if name in scores]
        task = tasks.get(name)
        if task is None or task.outcomes is None:
            checks += [Check(slice_, name, "missing") for slice_ in old]
            continue
        _check_same(name, before, describe_task(task))
        checks += [Check(slice_, name, "missing") for slice_ in old if slice_ not in task.slices]
        checks += [Check(slice_, name, "new") for slice_ in task.slices if slice_ not in old]
        if old:
            scores = [
                decode(baseline.outcomes[slice_][name], before, f"{slice_} on {name}")
                for slice_ in old
            ]
            was = replace(task.outcomes, slices=tuple(old), scores=np.stack(scores))
            both[name] = Sides(was, task.outcomes)
    checks += [
        Check(slice_, name, "new")
        for name, task in tasks.items()
        if name not in baseline.tasks
        for slice_ in task.slices
    ]
    checks += [_judge(change, max_drop) for change in changes(both, list(baseline.slices))]
    return GateResult(tuple(checks), _notes(sweep, baseline), max_drop, updated=False)


def _judge(change: Change, max_drop: float) -> Check:
    drop, low, high = -change.found.difference, -change.found.high, -change.found.low
    allowed = max_drop / 100
    status: Status = "pass"
    if low > allowed:
        status = "fail"
    elif drop > allowed:
        status = "undecided"
    return Check(
        slice=change.slice,
        task=change.task,
        status=status,
        baseline=change.before,
        now=change.after,
        drop=drop,
        low=low,
        high=high,
        p=change.found.p_holm,
    )


def _check_same(name: str, before: TaskBaseline, now: TaskBaseline) -> None:
    remedy = (
        "run the sweep with the baseline's limit, dataset and few-shot count, or accept the change "
        "with `update=True`"
    )
    where = ("the baseline", "the sweep")
    check_comparable(name, before.asked, now.asked, where=where, remedy=remedy)
    if before.encoding != now.encoding:
        raise InputError(
            f"{name}: outcomes are {before.encoding} in the baseline and {now.encoding} in the "
            f"sweep; {remedy}"
        )


def _notes(sweep: SweepResults, baseline: Baseline) -> tuple[str, ...]:
    notes = []
    if baseline.fingerprint != sweep.parent.fingerprint:
        notes.append("The parent's weights are not those of the baseline.")
    ungated = [task.name for task in sweep.tasks if task.outcomes is None]
    if ungated:
        notes.append(f"Not gated, for lack of per-item outcomes: {', '.join(ungated)}.")
    return tuple(notes)
