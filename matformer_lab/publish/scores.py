"""A slice's scores, taken out of a finished sweep."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from matformer_lab.checkpoint.manifest import Manifest
from matformer_lab.common.errors import InputError
from matformer_lab.results.sweep_results import TITLES, SweepResults, TaskScores
from matformer_lab.results.tables.description import ScoredSlice
from matformer_lab.statistics.panel import Panel


@dataclass(frozen=True)
class Score:
    """What a slice scored on a task.

    Attributes:
        task: The task's name, or that of the average of all tasks.
        title: The same for people.
        metric: Which metric; None for an average.
        num_fewshot: Examples in each prompt; None: the task's own number, or an average.
        n: Items.
        value: In percent, where the metric is a fraction.
        low: Lower end of its 95 % interval; None where there is none.
        high: Upper end.
        dataset: The Hub id of the task's dataset, if it has one alone.
    """

    task: str
    title: str
    metric: str | None
    num_fewshot: int | None
    n: int
    value: float
    low: float | None
    high: float | None
    dataset: str | None


def scored_slice(sweep: SweepResults, manifest: Manifest) -> ScoredSlice | None:
    """The slice of a sweep that a checkpoint is, whatever its name; None if it was not scored.

    Raises:
        InputError: The sweep is of another parent.
    """
    mine, theirs = manifest.parent.fingerprint, sweep.parent.fingerprint
    if mine != theirs:
        raise InputError(
            f"{sweep.folder}: its scores are of another parent, {sweep.parent.name} with "
            f"fingerprint {theirs[:16] or 'unknown'}; the checkpoint is cut from "
            f"{manifest.parent.name} with fingerprint {mine[:16]}"
        )
    digest = manifest.to_slice().digest
    return next((one for one in sweep.scored if one.slice.digest == digest), None)


def scores_of(sweep: SweepResults, name: str) -> tuple[Score, ...]:
    """What the slice `name` of a sweep scored: task by task, then the average where there is one.

    The same numbers and intervals as in the sweep's report.
    """
    tasks = {task.name: task for task in sweep.tasks}
    return tuple(
        _score(panel, tasks.get(panel.name), name, sweep)
        for panel in sweep.panels
        if name in panel.slices
    )


def _score(panel: Panel, task: TaskScores | None, name: str, sweep: SweepResults) -> Score:
    k = panel.index(name)
    # As the report does: a panel all of whose scores are fractions is shown in percent.
    scale = 100 if bool(((panel.values >= 0) & (panel.values <= 1)).all()) else 1
    low, high = (float(end) * scale for end in panel.intervals[k])
    has_interval = math.isfinite(low) and math.isfinite(high)
    return Score(
        task=panel.name,
        title=TITLES.get(panel.name, panel.name) if task else sweep.title(panel.name),
        metric=task.metric if task else None,
        num_fewshot=task.num_fewshot if task else None,
        n=panel.n,
        value=float(panel.values[k]) * scale,
        low=low if has_interval else None,
        high=high if has_interval else None,
        dataset=_dataset(sweep.provenance, panel.name),
    )


def _dataset(provenance: Mapping[str, Any], task: str) -> str | None:
    tasks = provenance.get("tasks")
    entry = tasks.get(task) if isinstance(tasks, Mapping) else None
    datasets = entry.get("datasets") if isinstance(entry, Mapping) else None
    found = datasets if isinstance(datasets, list) else []
    return found[0] if len(found) == 1 and isinstance(found[0], str) else None
