"""The one reader of a sweep folder: its files, checked against each other, as `SweepResults`.

Samples and store are what was measured; tables say it again. Nothing is returned that they
contradict.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from matformer_lab.common.errors import InputError
from matformer_lab.common.paths import StrPath
from matformer_lab.results.files import (
    MARKER,
    RECIPE_YAML,
    RESULTS_CSV,
    RESULTS_PARQUET,
    SLICES_JSON,
    samples_file,
)
from matformer_lab.results.own_files import own_files
from matformer_lab.results.stored import StoredScore, stored_scores, witness
from matformer_lab.results.sweep_results import SweepResults, TaskScores
from matformer_lab.results.tables.description import Description, ScoredSlice, read_description
from matformer_lab.results.tables.recipe_as_run import (
    RecipeAsRun,
    TaskAsked,
    TaskAsRun,
    read_recipe,
)
from matformer_lab.results.tables.result_row import ResultRow, RowKey, check_csv, read_rows
from matformer_lab.results.tables.samples import Item, read_samples
from matformer_lab.statistics.outcomes import Floats, Outcomes, make_outcomes

_EXACT: Final = 1e-6
"""How closely the mean over items must match the reported score."""


class _TaskMetric(NamedTuple):
    """A task and the metric of it to show."""

    task: str
    metric: str


class _ItemScores(NamedTuple):
    """What several slices scored on the items of one task.

    Attributes:
        items: In the order of the columns of `scores`.
        scores: [slices, items]; None where the metric has no score for each item.
    """

    items: tuple[Item, ...]
    scores: Floats | None


@dataclass(frozen=True)
class _Folder:
    """The files of a sweep's folder, each checked by itself."""

    path: Path
    description: Description
    recipe: RecipeAsRun
    rows: Mapping[RowKey, ResultRow]
    stored: Sequence[StoredScore]

    @property
    def results(self) -> Path:
        return self.path / RESULTS_PARQUET

    def samples(self, slice_: ScoredSlice, task: str) -> Path:
        return self.path / samples_file(slice_.slice.slug, task)


def read_sweep(folder: StrPath) -> SweepResults:
    """Read a finished sweep back from its folder; needs no model and no weights.

    Scores are computed again from samples/, and compared with store/ where it is there. Tables and
    samples have to be as the sweep wrote them, down to the byte.

    Args:
        folder: What `run_sweep` wrote.

    Raises:
        InputError: When it is not the folder of a finished sweep, or its files contradict each
            other; names the files and what each says.

    Examples:
        >>> import matformer_lab as ml
        >>> ml.read_sweep("runs/demo").scores()["slice"].tolist()
        ['e2b', 'e4b']
    """
    path = Path(folder)
    description = read_description(path / SLICES_JSON)
    recipe, written = read_recipe(path / RECIPE_YAML)
    rows = read_rows(path / RESULTS_PARQUET)
    read = _Folder(path, description, recipe, rows, stored_scores(path))
    _check_slices(read)
    _check_conditions(read)
    check_csv(path / RESULTS_CSV, tuple(rows.values()))
    names = {key.slice for key in rows}
    scored = tuple(
        sorted(
            (entry for entry in description.slices if entry.name in names),
            key=lambda entry: (entry.effective, entry.total, entry.name),
        )
    )
    tasks = tuple(_task_scores(read, shown, scored) for shown in _shown(read))
    _check_unchanged(path)
    dtype = next(iter(rows.values())).dtype or recipe.dtype
    return SweepResults(path, description.parent, scored, tasks, written, dtype)


def _check_unchanged(path: Path) -> None:
    """After the contradictions, which say more: files that agree may still have been edited."""
    if (path / MARKER).exists():
        for change in own_files(path).changed():
            raise InputError(f"{path / change}; run the sweep again to rewrite its tables")


def _check_slices(read: _Folder) -> None:
    """results.parquet and recipe.yaml must mean the slices that slices.json describes."""
    described = {entry.name: entry for entry in read.description.slices}
    if unknown := {key.slice for key in read.rows} - described.keys():
        raise InputError(
            f"{read.path}: {SLICES_JSON} does not describe {', '.join(sorted(unknown))}"
        )
    for row in read.rows.values():
        params = described[row.slice].params
        for name, said, counted in (
            ("effective_params", row.effective_params, params.effective),
            ("total_params", row.total_params, params.total),
        ):
            if said is not None and said != counted:
                raise InputError(
                    f"{read.results}: {name} of {row.slice} is {said:,}, "
                    f"but {counted:,} in {SLICES_JSON}"
                )
    for name, digest in read.recipe.as_run.slices.items():
        if name in described and described[name].slice.digest != digest:
            raise InputError(
                f"{read.path / RECIPE_YAML}: as_run.slices.{name} is another slice than "
                f"{SLICES_JSON} describes under this name"
            )


def _check_conditions(read: _Folder) -> None:
    """What recipe.yaml says of the run must be what the other files say of it."""
    where, recipe = read.path / RECIPE_YAML, read.recipe
    fingerprint, described = recipe.as_run.parent.fingerprint, read.description.parent.fingerprint
    if fingerprint and described and fingerprint != described:
        raise InputError(
            f"{where}: as_run.parent.fingerprint is {fingerprint}, but {described} in {SLICES_JSON}"
        )
    dtypes = dict.fromkeys(row.dtype for row in read.rows.values())
    if len(dtypes) > 1:
        raise InputError(
            f"{read.results}: scores of different dtypes ({', '.join(map(str, dtypes))})"
        )
    for row in read.rows.values():
        ran = recipe.as_run.tasks.get(row.task)
        pairs = {
            "dtype": (None if recipe.dtype == "auto" else recipe.dtype, row.dtype),
            "seed": (recipe.seed, row.seed),
            "limit": (recipe.limit, row.limit),
            f"as_run.tasks.{row.task}.version": (ran.version if ran else None, row.task_version),
        }
        for name, (said, scored) in pairs.items():
            if said is not None and scored is not None and said != scored:
                raise InputError(
                    f"{where}: {name} is {said}, but {scored} in {RESULTS_PARQUET} ({row.key})"
                )


def _shown(read: _Folder) -> list[_TaskMetric]:
    """The recipe's tasks that have scores, each with its main metric."""
    own = [row for row in read.rows.values() if row.group is None]
    asked = read.recipe.asked or {row.task: TaskAsked(name=row.task) for row in own}
    shown = []
    for name, entry in asked.items():
        rows = [row for row in own if row.task == name]
        if not rows:
            _check_not_scored(read, name)
            continue
        metrics = list(dict.fromkeys(row.metric for row in rows))
        plotted = next((row.metric for row in rows if row.primary), metrics[0])
        if entry.metric is None:
            shown.append(_TaskMetric(name, plotted))
            continue
        # A task with several answer filters has metrics named `metric,filter`.
        found = [one for one in metrics if f"{one},".startswith(f"{entry.metric},")]
        if not found:
            raise InputError(
                f"{read.path / RECIPE_YAML}: {name} was asked for {entry.metric}, but "
                f"{RESULTS_PARQUET} has {', '.join(metrics)}"
            )
        shown.append(_TaskMetric(name, plotted if plotted in found else found[0]))
    if not shown:
        raise InputError(
            f"{read.path / RECIPE_YAML}: no scores of the recipe's tasks in {RESULTS_PARQUET}"
        )
    return shown


def _check_not_scored(read: _Folder, task: str, but: Sequence[str] = ()) -> None:
    """A slice without a score of `task` must not have samples of it; `but`: those with a score."""
    for entry in read.description.slices:
        if entry.name not in but and os.path.lexists(path := read.samples(entry, task)):
            raise InputError(
                f"{read.results}: has no score of {entry.name} on {task}, but {path} has its "
                "samples; run the sweep again to rewrite its tables"
            )


def _task_scores(read: _Folder, shown: _TaskMetric, scored: Sequence[ScoredSlice]) -> TaskScores:
    present, rows = zip(
        *(
            (entry, row)
            for entry in scored
            if (row := read.rows.get(RowKey(entry.name, shown.task, None, shown.metric)))
        ),
        strict=True,
    )
    names = tuple(entry.name for entry in present)
    _check_not_scored(read, shown.task, but=names)
    first = rows[0]
    for row in rows:
        for name in ("n", "num_fewshot", "higher_is_better"):
            if getattr(row, name) != getattr(first, name):
                raise InputError(
                    f"{read.results}: {name} of {first.key} is {getattr(first, name)}, "
                    f"but {getattr(row, name)} of {row.key}"
                )
    witnesses = tuple(
        witness(
            read.stored,
            read.rows,
            read.recipe,
            slice_=entry.name,
            digest=entry.slice.digest,
            task=shown.task,
            where=read.results,
        )
        for entry in present
    )
    measured = _items(read, shown, present, witnesses)
    better = first.higher_is_better is not False
    outcomes = None
    if measured is not None and measured.scores is not None:
        outcomes = _outcomes(read, rows, measured, proven=None not in witnesses)
    ran = read.recipe.as_run.tasks.get(shown.task, TaskAsRun())
    asked = read.recipe.asked.get(shown.task)
    paired = measured if outcomes is not None and better else None
    return TaskScores(
        name=shown.task,
        metric=shown.metric,
        num_fewshot=first.num_fewshot,
        n=first.n,
        higher_is_better=better,
        slices=names,
        values=tuple(row.value for row in rows),
        stderrs=tuple(float("nan") if row.stderr is None else row.stderr for row in rows),
        outcomes=outcomes if better else None,
        item_ids=() if paired is None else tuple(item.id for item in paired.items),
        subjects=() if paired is None else tuple(item.subject for item in paired.items),
        lm_eval_name=None if asked is None else asked.name,
        version=first.task_version if ran.version is None else ran.version,
        prompt_hash=ran.prompt_hash,
    )


def _items(
    read: _Folder,
    shown: _TaskMetric,
    scored: Sequence[ScoredSlice],
    witnesses: Sequence[StoredScore | None],
) -> _ItemScores | None:
    """What the slices scored item by item; None where a slice has no samples of the task."""
    task, metric = shown
    paths = [read.samples(entry, task) for entry in scored]
    if not all(map(os.path.lexists, paths)):
        return None
    tables = []
    for entry, path, stored in zip(scored, paths, witnesses, strict=True):
        table = read_samples(path, task=task, metric=metric, slice_=entry.name)
        if stored is not None:
            original = read_samples(stored.path, task=task, metric=metric)
            same = original.items == table.items and _equal(original.scores, table.scores)
            if not same:
                raise InputError(
                    f"{path}: contradicts {stored.path}, from which it was made; "
                    "run the sweep again to rewrite it"
                )
        tables.append(table)
    first = tables[0]
    for entry, table in zip(scored, tables, strict=True):
        if table.items != first.items:
            raise InputError(
                f"{read.path}: samples of {task}: slices {scored[0].name} and {entry.name} "
                "were scored on different items; run the sweep again with one limit and one dataset"
            )
    scores = [table.scores for table in tables if table.scores is not None]
    return _ItemScores(first.items, np.stack(scores) if len(scores) == len(tables) else None)


def _equal(a: Floats | None, b: Floats | None) -> bool:
    return (a is None) == (b is None) and (a is None or b is None or np.array_equal(a, b))


def _outcomes(
    read: _Folder, rows: Sequence[ResultRow], measured: _ItemScores, *, proven: bool
) -> Outcomes | None:
    """The outcomes, if their mean (over items, or over subjects) is the reported score.

    Args:
        read: The folder.
        rows: The reported scores, a row for each slice.
        measured: What the slices scored item by item.
        proven: Whether the store says what the rows say. Then a score that is not a mean over items
            (a corpus-level F1, say) is right all the same; else it is refused.
    """
    assert measured.scores is not None
    names, values = tuple(row.slice for row in rows), np.array([row.value for row in rows])
    subjects = [item.subject for item in measured.items]
    best: Floats | None = None
    for macro in (False, True):
        outcomes = make_outcomes(names, measured.scores, subjects, macro=macro)
        if rows[0].n != outcomes.n:
            raise InputError(
                f"{read.results}: {rows[0].key} is of {rows[0].n} items, but there are samples of "
                f"{outcomes.n}"
            )
        wrong = ~np.isclose(outcomes.values, values, rtol=0, atol=_EXACT)
        if not wrong.any():
            return outcomes
        if best is None or wrong.sum() < (~np.isclose(best, values, rtol=0, atol=_EXACT)).sum():
            best = outcomes.values
    if proven:
        return None
    assert best is not None
    # lm-eval's perplexity is the one other figure that it makes of one number an item.
    if np.allclose(np.exp(-measured.scores.mean(axis=1)), values, rtol=_EXACT, atol=0):
        return None
    at = int(np.argmax(~np.isclose(best, values, rtol=0, atol=_EXACT)))
    raise InputError(
        f"{read.results}: {rows[at].key} is {values[at]:.6g}, but its samples say {best[at]:.6g}; "
        "run the sweep again to rewrite its tables"
    )
