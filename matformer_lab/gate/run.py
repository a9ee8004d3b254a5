"""The CI gate: did a slice get worse than its baseline, by more than allowed and beyond noise?"""

from __future__ import annotations

import math

from matformer_lab.common.errors import InputError
from matformer_lab.common.files.atomic import write_atomic
from matformer_lab.common.files.disk_errors import disk_errors
from matformer_lab.common.paths import StrPath, to_path
from matformer_lab.gate.baseline import dump_baseline, load_baseline, make_baseline
from matformer_lab.gate.compare import Allowed, compare
from matformer_lab.gate.junit import to_junit
from matformer_lab.gate.markdown import to_markdown
from matformer_lab.gate.result import Check, GateResult
from matformer_lab.gate.sealed import AS_IT_WAS, real_path, write_sealed
from matformer_lab.gate.targets import JUNIT, SUMMARY, check_targets
from matformer_lab.results.read import read_sweep
from matformer_lab.results.sweep_results import SweepResults


def run_gate(
    folder: StrPath,
    baseline: StrPath,
    max_drop: float = 1.0,
    update: bool = False,
    markdown: StrPath | None = None,
    junit: StrPath | None = None,
    *,
    allow_new: bool = False,
    allow_missing: bool = False,
    allow_parent: bool = False,
) -> GateResult:
    """Compare a finished sweep with a baseline, or make it the baseline.

    A check fails where even the lower end of the paired interval of the slice's drop is above
    `max_drop` points. The intervals of all checks hold together (docs/statistics.md). A slice or a
    task that only one side has fails too, unless that is allowed.

    Args:
        folder: A finished sweep's folder.
        baseline: The baseline file.
        max_drop: Points of score that a slice may lose.
        update: Write the sweep into `baseline` instead of comparing.
        markdown: A file to write a summary to, for a CI job's page.
        junit: A file to write JUnit XML to.
        allow_new: Let slices and tasks pass that the baseline does not have.
        allow_missing: Let slices and tasks pass that the sweep does not have.
        allow_parent: Compare slices of another parent than the baseline's.

    Raises:
        InputError: When the folder is not a finished sweep, a file cannot be written or is not the
            gate's to replace, there is no baseline or its parts disagree, the two were not asked
            the same (parent, dtype, limit, seed, items, prompts, few-shot count, metric, task
            version, a slice's widths), or nothing is on both sides.

    Examples:
        >>> import matformer_lab as ml
        >>> ml.run_gate("runs/demo", "baseline.yaml", max_drop=0.5).ok
        True
    """
    folder, baseline = to_path(folder), to_path(baseline)
    markdown_file = to_path(markdown) if markdown else None
    junit_file = to_path(junit) if junit else None
    if not (max_drop >= 0 and math.isfinite(max_drop)):
        raise InputError(f"`max_drop` is {max_drop}; give points of score, 0 or more")
    check_targets(folder, baseline, update=update, markdown=markdown_file, junit=junit_file)
    sweep = read_sweep(folder)
    if update:
        written = dump_baseline(make_baseline(sweep))
        with disk_errors(baseline, AS_IT_WAS):
            write_atomic(real_path(baseline), written.encode())
        result = GateResult(_self_checks(sweep), (), max_drop, updated=True)
    else:
        allowed = Allowed(new=allow_new, missing=allow_missing, parent=allow_parent)
        result = compare(sweep, load_baseline(baseline), max_drop, allowed)
    if markdown_file:
        write_sealed(markdown_file, to_markdown(result).encode(), SUMMARY)
    if junit_file:
        write_sealed(junit_file, to_junit(result), JUNIT)
    return result


def _self_checks(sweep: SweepResults) -> tuple[Check, ...]:
    return tuple(
        Check(slice_, task.name, "new", now=value)
        for task in sweep.tasks
        if task.outcomes is not None
        for slice_, value in zip(task.slices, task.values, strict=True)
    )
