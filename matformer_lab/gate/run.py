"""The CI gate: did a slice get worse than its baseline, by more than allowed and beyond noise?"""

from __future__ import annotations

from matformer_lab.common.atomic import write_atomic
from matformer_lab.common.errors import InputError
from matformer_lab.common.paths import StrPath, to_path
from matformer_lab.gate.baseline import dump_baseline, load_baseline, make_baseline
from matformer_lab.gate.compare import compare
from matformer_lab.gate.junit import to_junit
from matformer_lab.gate.markdown import to_markdown
from matformer_lab.gate.result import Check, GateResult
from matformer_lab.results.read import read_sweep
from matformer_lab.results.sweep_results import SweepResults


def run_gate(
    folder: StrPath,
    baseline: StrPath,
    max_drop: float = 1.0,
    update: bool = False,
    markdown: StrPath | None = None,
    junit: StrPath | None = None,
) -> GateResult:
    """Compare a finished sweep with a baseline, or make it the baseline.

    A check fails where even the lower end of the paired interval of the slice's drop is above
    `max_drop` points. The intervals of all checks hold together (docs/statistics.md).

    Args:
        folder: A finished sweep's folder.
        baseline: The baseline file.
        max_drop: Points of score that a slice may lose.
        update: Write the sweep into `baseline` instead of comparing.
        markdown: A file to write a summary to, for a CI job's page.
        junit: A file to write JUnit XML to.

    Raises:
        InputError: When the folder is not a finished sweep or a file cannot be written; when there
            is no baseline, or it has other items, another few-shot count or another metric, or a
            slice of the same name with other widths.

    Examples:
        >>> import matformer_lab as ml
        >>> ml.run_gate("runs/demo", "baseline.yaml", max_drop=0.5).ok  # doctest: +SKIP
        True
    """
    folder, baseline = to_path(folder), to_path(baseline)
    markdown_file = to_path(markdown) if markdown else None
    junit_file = to_path(junit) if junit else None
    if not max_drop >= 0:
        raise InputError(f"`max_drop` is {max_drop}; give points of score, 0 or more")
    for target in filter(None, (baseline if update else None, markdown_file, junit_file)):
        if target.is_dir() or not target.parent.is_dir():
            raise InputError(f"{target}: cannot be written; give a file in an existing folder")
    sweep = read_sweep(folder)
    if update:
        write_atomic(baseline, dump_baseline(make_baseline(sweep)).encode())
        result = GateResult(_self_checks(sweep), (), max_drop, updated=True)
    else:
        result = compare(sweep, load_baseline(baseline), max_drop)
    if markdown_file:
        write_atomic(markdown_file, to_markdown(result).encode())
    if junit_file:
        write_atomic(junit_file, to_junit(result))
    return result


def _self_checks(sweep: SweepResults) -> tuple[Check, ...]:
    return tuple(
        Check(slice_, task.name, "new", now=value)
        for task in sweep.tasks
        if task.outcomes is not None
        for slice_, value in zip(task.slices, task.values, strict=True)
    )
