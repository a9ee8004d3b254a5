"""A finished sweep against a baseline, check by check; fails closed.

What cannot be compared is an error. What is on one side only fails, unless the caller allows it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from matformer_lab.common.errors import InputError
from matformer_lab.gate.baseline import (
    Baseline,
    TaskBaseline,
    check_conditions_known,
    decode,
    describe_task,
    gated_tasks,
    score_contradictions,
)
from matformer_lab.gate.result import Check, GateResult, Status
from matformer_lab.results.pairing import Change, Sides, changes, check_comparable
from matformer_lab.results.sweep_results import SweepResults
from matformer_lab.statistics.outcomes import Outcomes

_REMEDY = (
    "run the sweep with the baseline's recipe, dataset and versions, or accept the change "
    "with `update=True`"
)


@dataclass(frozen=True)
class Allowed:
    """What may differ between a sweep and its baseline.

    Attributes:
        new: Slices and tasks that the baseline does not have.
        missing: Slices and tasks that the sweep does not have.
        parent: The parent: its name and its weights.
    """

    new: bool = False
    missing: bool = False
    parent: bool = False

    @property
    def statuses(self) -> frozenset[Status]:
        """The checks that do not fail the gate."""
        allowed: dict[Status, bool] = {"new": self.new, "missing": self.missing}
        return frozenset(status for status, leave in allowed.items() if leave)


def compare(
    sweep: SweepResults, baseline: Baseline, max_drop: float, allowed: Allowed
) -> GateResult:
    """Check every slice on every task of the sweep and of the baseline.

    Args:
        sweep: What was scored now.
        baseline: What it is compared with.
        max_drop: Points of score that a slice may lose.
        allowed: What may differ.

    Raises:
        InputError: When the two were not asked the same (parent, dtype, limit, seed, or a task's
            items, prompts, version, metric or few-shot count), a slice has other widths, the
            baseline's scores contradict its outcomes, or nothing is on both sides.
    """
    _check_same_conditions(sweep, baseline, allowed)
    _check_same_slices(sweep, baseline)
    tasks = gated_tasks(sweep)
    checks = list(_one_sided(sweep, baseline))
    both: dict[str, Sides] = {}
    for name, before in baseline.tasks.items():
        task = tasks.get(name)
        if task is None or task.outcomes is None:
            continue
        _check_same_task(name, before, describe_task(task))
        both[name] = Sides(_outcomes(baseline, name, task.outcomes), task.outcomes)
    if not any(set(was.slices) & set(now.slices) for was, now in both.values()):
        raise InputError(
            f"{sweep.folder}: no slice and task is in the sweep and in the baseline, so nothing "
            "was compared"
        )
    if max_drop >= 100 and all(
        sides.after.binary and sides.before.binary for sides in both.values()
    ):
        raise InputError(
            f"`max_drop` is {max_drop:g}, and no score can drop by 100 points or more; give fewer"
        )
    compared = [_judge(change, max_drop) for change in changes(both, list(baseline.slices))]
    return GateResult(
        checks=(*checks, *compared),
        notes=tuple(_notes(sweep, baseline)),
        max_drop=max_drop,
        updated=False,
        allowed=allowed.statuses,
    )


def _check_same_conditions(sweep: SweepResults, baseline: Baseline, allowed: Allowed) -> None:
    check_conditions_known(sweep)
    pairs = {
        "parent": (baseline.parent, sweep.parent.name),
        "the parent's fingerprint": (baseline.fingerprint, sweep.parent.fingerprint),
        "dtype": (baseline.dtype, sweep.dtype),
        "limit": (baseline.limit, sweep.recipe["limit"]),
        "seed": (baseline.seed, sweep.recipe["seed"]),
    }
    for name, (before, now) in pairs.items():
        of_parent = "parent" in name
        if before == now or (of_parent and allowed.parent):
            continue
        leave = "; `allow_parent=True` compares slices of two parents" if of_parent else ""
        raise InputError(
            f"{name} is {before} in the baseline and {now} in the sweep; {_REMEDY}{leave}"
        )


def _check_same_slices(sweep: SweepResults, baseline: Baseline) -> None:
    digests = {scored.name: scored.slice.digest for scored in sweep.scored}
    for name, digest in baseline.slices.items():
        if digests.get(name, digest) != digest:
            raise InputError(
                f"slice {name}: its widths or skipped layers are not those of the baseline; "
                "rename it, or accept it with `update=True`"
            )


def _check_same_task(name: str, before: TaskBaseline, now: TaskBaseline) -> None:
    where = ("the baseline", "the sweep")
    check_comparable(name, before.asked, now.asked, where=where, remedy=_REMEDY)
    for key in ("encoding", "mean_over"):
        was, is_ = getattr(before, key), getattr(now, key)
        if was != is_:
            raise InputError(
                f"{name}: {key} is {was} in the baseline and {is_} in the sweep; {_REMEDY}"
            )


def _one_sided(sweep: SweepResults, baseline: Baseline) -> Iterator[Check]:
    """A check for each slice and task that is in the sweep or in the baseline only."""
    now = {(slice_, task.name) for task in sweep.tasks for slice_ in task.slices}
    before = {(slice_, task) for slice_, found in baseline.outcomes.items() for task in found}
    before |= {(slice_, task) for slice_ in baseline.slices for task in baseline.not_gated}
    gated = gated_tasks(sweep).keys()
    for slice_, task in sorted(before - now):
        yield Check(slice_, task, "missing")
    for slice_, task in sorted(now - before):
        yield Check(slice_, task, "new")
    for slice_, task in sorted(now & before):
        if task in baseline.tasks and task not in gated:
            yield Check(slice_, task, "missing")  # the score is there, its outcomes are not
        if task in baseline.not_gated and task in gated:
            yield Check(slice_, task, "new")


def _outcomes(baseline: Baseline, task: str, now: Outcomes) -> Outcomes:
    """The baseline's outcomes of a task; items, subjects and weights are the sweep's."""
    lines = {name: found[task] for name, found in baseline.outcomes.items() if task in found}
    scores = [decode(one, baseline.tasks[task], f"{name} on {task}") for name, one in lines.items()]
    outcomes = replace(now, slices=tuple(lines), scores=np.stack(scores))
    for name, value in zip(outcomes.slices, outcomes.values, strict=True):
        for problem in score_contradictions(baseline, name, task, float(value)):
            raise InputError(
                f"baseline: {problem}; restore it, or accept a sweep with `update=True`"
            )
    return outcomes


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


def _notes(sweep: SweepResults, baseline: Baseline) -> Iterator[str]:
    if baseline.fingerprint != sweep.parent.fingerprint:
        yield "The parent's weights are not those of the baseline."
    if baseline.parent != sweep.parent.name:
        yield f"The parent is {sweep.parent.name}, the baseline's is {baseline.parent}."
    ungated = [task.name for task in sweep.tasks if task.outcomes is None]
    if ungated:
        yield f"Not gated, for lack of per-item outcomes: {', '.join(ungated)}."
    yield from sweep.mixed_modes
