"""The one reader of a sweep folder: its tables, checked, as `SweepResults`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pydantic import ValidationError

from matformer_lab.common.errors import InputError, one_line
from matformer_lab.common.paths import StrPath
from matformer_lab.common.strict_json import strict_json
from matformer_lab.common.strict_yaml import parse_yaml
from matformer_lab.common.untrusted import read_small
from matformer_lab.common.validation import explain
from matformer_lab.results.description import Description, ScoredSlice
from matformer_lab.results.files import RECIPE_YAML, RESULTS_PARQUET, SLICES_JSON, samples_file
from matformer_lab.results.sweep_results import SweepResults, TaskScores
from matformer_lab.statistics.outcomes import Floats, Outcomes, make_outcomes

if TYPE_CHECKING:
    import pandas as pd

_EXACT = 1e-6  # how closely the mean over items must match the reported score


class _TaskMetric(NamedTuple):
    """A task and the metric of it to show."""

    task: str
    metric: str


class _ItemScores(NamedTuple):
    """What several slices scored on the items of one task.

    Attributes:
        scores: [slices, items].
        ids: Of the items, "subject/doc".
        subjects: Of the items.
    """

    scores: Floats
    ids: tuple[str, ...]
    subjects: tuple[str, ...]


def read_sweep(folder: StrPath) -> SweepResults:
    """Read a finished sweep back from its folder; needs no model and no weights.

    Args:
        folder: What `run_sweep` wrote.

    Raises:
        InputError: When it is not the folder of a finished sweep, or its files contradict each
            other.

    Examples:
        >>> import matformer_lab as ml
        >>> ml.read_sweep("runs/demo").scores()  # doctest: +SKIP
    """
    folder = Path(folder)
    description = _read_description(folder / SLICES_JSON)
    recipe = _read_recipe(folder / RECIPE_YAML)
    results = _read_parquet(folder / RESULTS_PARQUET)
    needed = {"slice", "task", "metric", "value", "stderr", "n"}
    if absent := needed - set(results.columns):
        raise InputError(f"{folder / RESULTS_PARQUET}: no column {', '.join(sorted(absent))}")
    described = [entry.name for entry in description.slices]
    if len(set(described)) < len(described):
        raise InputError(f"{folder / SLICES_JSON}: a slice is described twice")
    names = set(results["slice"])
    if unknown := names - set(described):
        raise InputError(f"{folder}: {SLICES_JSON} does not describe {', '.join(sorted(unknown))}")
    scored_slices = tuple(
        sorted(
            (entry for entry in description.slices if entry.name in names),
            key=lambda entry: (entry.effective, entry.total, entry.name),
        )
    )
    if not scored_slices:
        raise InputError(f"{folder}: no scores yet; let the sweep finish a task first")
    tasks = tuple(
        _task_scores(folder, results, shown, scored_slices)
        for shown in _shown(recipe, results, folder / RECIPE_YAML)
    )
    return SweepResults(folder, description.parent, scored_slices, tasks, recipe)


def _read_description(path: Path) -> Description:
    written = strict_json(_read(path), str(path))
    try:
        return Description.model_validate(written)
    except ValidationError as error:
        raise InputError(
            f"{path}: {explain(error, Description)}; run the sweep again to rewrite it"
        ) from None


def _read_recipe(path: Path) -> dict[str, Any]:
    recipe = parse_yaml(_read(path), str(path))
    if not isinstance(recipe, dict):
        raise InputError(f"{path}: must hold a mapping")
    return recipe


def _read(path: Path) -> bytes:
    if not path.exists():
        raise InputError(f"{path}: not found; {path.parent} is not a finished sweep")
    return read_small(path)


def _read_parquet(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        return pd.read_parquet(path)
    except FileNotFoundError:
        raise InputError(f"{path}: not found; {path.parent} is not a finished sweep") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {one_line(error)}") from None


def _shown(recipe: Mapping[str, Any], results: pd.DataFrame, where: Path) -> list[_TaskMetric]:
    """The recipe's tasks that have scores, each with its main metric."""
    try:
        asked = {
            (entry if isinstance(entry, str) else entry["name"]): (
                None if isinstance(entry, str) else entry.get("metric")
            )
            for entry in recipe.get("tasks") or []
        }
    except (KeyError, TypeError, AttributeError):
        raise InputError(
            f"{where}: tasks: each entry is a name, or a mapping with a name"
        ) from None
    if not asked:
        top = results[results["group"].isna()] if "group" in results else results
        asked = dict.fromkeys(top["task"])
    shown = []
    for name, metric in asked.items():
        rows = results[results["task"] == name]
        if metric is None and "primary" in rows:
            rows = rows.sort_values("primary", ascending=False, kind="stable")
        metrics = list(rows["metric"].unique())
        if metrics:
            chosen = metric if metric in metrics else metrics[0]
            shown.append(_TaskMetric(str(name), str(chosen)))
    if not shown:
        raise InputError(f"{where}: no scores of the recipe's tasks in {RESULTS_PARQUET}")
    return shown


def _task_scores(
    folder: Path, results: pd.DataFrame, shown: _TaskMetric, scored_slices: Sequence[ScoredSlice]
) -> TaskScores:
    rows = results[(results["task"] == shown.task) & (results["metric"] == shown.metric)]
    rows = rows.drop_duplicates("slice", keep="last").set_index("slice")
    present = [scored for scored in scored_slices if scored.name in rows.index]
    rows = rows.loc[[scored.name for scored in present]]
    better = rows["higher_is_better"].iloc[0] if "higher_is_better" in rows else True
    fewshot = rows["num_fewshot"].iloc[0] if "num_fewshot" in rows else None
    values = tuple(float(value) for value in rows["value"])
    items = _items(folder, shown, present)
    outcomes = None
    if items is not None and better is not False:
        outcomes = _outcomes(tuple(rows.index), items, values)
    if outcomes is None:
        items = None
    return TaskScores(
        name=shown.task,
        metric=shown.metric,
        num_fewshot=None if fewshot is None or math.isnan(fewshot) else int(fewshot),
        n=int(rows["n"].iloc[0]),
        higher_is_better=better is not False and bool(better),
        slices=tuple(rows.index),
        values=values,
        stderrs=tuple(_number(value) for value in rows["stderr"]),
        outcomes=outcomes,
        item_ids=() if items is None else items.ids,
        subjects=() if items is None else items.subjects,
    )


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):  # lm-eval writes "N/A" where it has no standard error
        return float("nan")


def _items(
    folder: Path, shown: _TaskMetric, scored_slices: Sequence[ScoredSlice]
) -> _ItemScores | None:
    """What the slices scored item by item; None where a slice has no such outcomes."""
    task, metric = shown
    tables = []
    for scored in scored_slices:
        path = folder / samples_file(scored.slice.slug, task)
        if not path.exists():
            return None
        table = _read_parquet(path)
        if metric not in table or table[metric].isna().any():
            return None
        table = table.assign(_subject=table.get("subtask", task)).astype({"_subject": str})
        table["_id"] = table["_subject"] + "/" + table["doc_id"].astype(str)
        tables.append(table.sort_values(["_subject", "doc_id"], kind="stable"))
    first = tables[0]
    ids = first["_id"].to_numpy()
    if len(set(ids)) != len(ids):
        raise InputError(f"{folder}: samples of {task}: an item is listed twice")
    for scored, table in zip(scored_slices, tables, strict=True):
        if not np.array_equal(table["_id"].to_numpy(), ids):
            raise InputError(
                f"{folder}: samples of {task}: slices {scored_slices[0].name} and {scored.name} "
                "were scored on different items; run the sweep again with one limit and one dataset"
            )
    scores = np.stack([table[metric].to_numpy(dtype=np.float64) for table in tables])
    return _ItemScores(scores, tuple(ids), tuple(first["_subject"]))


def _outcomes(
    names: tuple[str, ...], items: _ItemScores, values: tuple[float, ...]
) -> Outcomes | None:
    """The outcomes, if their mean (over items, or over subjects) is the reported score."""
    for macro in (False, True):
        outcomes = make_outcomes(names, items.scores, items.subjects, macro=macro)
        if np.allclose(outcomes.values, values, rtol=0, atol=_EXACT):
            return outcomes
    return None  # the metric is not a mean over items (a corpus-level F1, say)
