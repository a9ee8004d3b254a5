"""A finished sweep read back from its folder: `slices.json`, `results.parquet`, `samples/`,
`recipe.yaml`; no model."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from matformer_lab.common.errors import InputError, one_line
from matformer_lab.results.finished import Finished, Member, ParentInfo, TaskScores
from matformer_lab.slicing.slices import Slice
from matformer_lab.statistics import paired

if TYPE_CHECKING:
    import pandas as pd

_EXACT = 1e-6  # how closely the mean over items must meet the reported score


def read_finished(folder: Path) -> Finished:
    """Read a sweep folder. Raises InputError when it is none, or does not hold together."""
    import pandas as pd

    folder = Path(folder)
    described = _read(folder / "slices.json", json.loads)
    recipe = _read(folder / "recipe.yaml", yaml.safe_load)
    results = _read_parquet(folder / "results.parquet")
    try:
        parent = _parent(described["parent"])
        members = tuple(_member(entry) for entry in described["slices"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{folder / 'slices.json'}: missing or malformed entry {one_line(error)}; "
            "run the sweep again to rewrite it"
        ) from None
    needed = {"slice", "task", "metric", "value", "stderr", "n"}
    if missing := needed - set(results.columns):
        raise InputError(f"{folder / 'results.parquet'}: no column {', '.join(sorted(missing))}")
    scored = set(results["slice"])
    if unknown := scored - {member.name for member in members}:
        raise InputError(f"{folder}: slices.json does not describe {', '.join(sorted(unknown))}")
    members = tuple(
        sorted(
            (member for member in members if member.name in scored),
            key=lambda member: (member.effective, member.total, member.name),
        )
    )
    if not members:
        raise InputError(f"{folder}: no scores yet; let the sweep finish a task first")
    tasks = tuple(
        _task(folder, results[results["task"] == name], name, metric, members)
        for name, metric in _wanted(recipe, results, folder / "recipe.yaml")
    )
    if pd.Series([member.name for member in members]).duplicated().any():
        raise InputError(f"{folder / 'slices.json'}: a slice is described twice")
    return Finished(folder, parent, members, tasks, recipe)


def _read(path: Path, parse: Any) -> Any:
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: not found; {path.parent} is not a finished sweep") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read: {one_line(error)}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: must hold a mapping")
    return content


def _read_parquet(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        return pd.read_parquet(path)
    except FileNotFoundError:
        raise InputError(f"{path}: not found; {path.parent} is not a finished sweep") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {one_line(error)}") from None


def _parent(entry: Mapping[str, Any]) -> ParentInfo:
    widths = tuple(int(width) for width in entry["intermediate_size"])
    return ParentInfo(
        ref=str(entry.get("ref", entry["name"])),
        name=str(entry["name"]),
        fingerprint=str(entry.get("fingerprint", "")),
        revision=entry.get("revision"),
        intermediate_size=widths,
        layer_types=tuple(str(kind) for kind in entry["layer_types"]),
        first_kv_shared_layer=len(widths) - int(entry.get("num_kv_shared_layers", 0)),
    )


def _member(entry: Mapping[str, Any]) -> Member:
    widths = tuple(int(width) for width in entry["widths"])
    skipped = tuple(int(layer) for layer in entry["skipped"])
    params = entry["params"]
    return Member(
        slice=Slice(str(entry["name"]), widths, skipped),
        total=int(params["total"]),
        text=int(params["text"]),
        effective=int(params["effective"]),
        bytes=int(entry["bytes"]),
        published=entry.get("published"),
    )


def _wanted(recipe: Mapping[str, Any], results: pd.DataFrame, where: Path) -> list[tuple[str, str]]:
    """(task, metric) to show: the recipe's tasks that have scores, each with its main metric."""
    try:
        asked = {
            (entry if isinstance(entry, str) else entry["name"]): (
                None if isinstance(entry, str) else entry.get("metric")
            )
            for entry in recipe.get("tasks") or []
        }
    except (KeyError, TypeError, AttributeError):
        raise InputError(f"{where}: tasks: each is a name or a mapping with a name") from None
    if not asked:
        top = results[results["group"].isna()] if "group" in results else results
        asked = dict.fromkeys(top["task"])
    wanted = []
    for name, metric in asked.items():
        rows = results[results["task"] == name]
        if metric is None and "primary" in rows:
            rows = rows.sort_values("primary", ascending=False, kind="stable")
        metrics = list(rows["metric"].unique())
        if metrics:
            wanted.append((str(name), str(metric if metric in metrics else metrics[0])))
    if not wanted:
        raise InputError(f"{where}: no scores of the recipe's tasks in results.parquet")
    return wanted


def _task(
    folder: Path, rows: pd.DataFrame, name: str, metric: str, members: tuple[Member, ...]
) -> TaskScores:
    rows = rows[rows["metric"] == metric].drop_duplicates("slice", keep="last").set_index("slice")
    present = [member for member in members if member.name in rows.index]
    rows = rows.loc[[member.name for member in present]]
    better = rows["higher_is_better"].iloc[0] if "higher_is_better" in rows else True
    fewshot = rows["num_fewshot"].iloc[0] if "num_fewshot" in rows else None
    values = tuple(float(value) for value in rows["value"])
    items = _items(folder, name, metric, present)
    outcomes = None
    if items is not None and better is not False:
        outcomes = _outcomes(tuple(rows.index), *items, values)
    ids, subjects = ((), ()) if outcomes is None or items is None else items[1:]
    return TaskScores(
        name=name,
        metric=metric,
        num_fewshot=None if fewshot is None or math.isnan(fewshot) else int(fewshot),
        n=int(rows["n"].iloc[0]),
        higher_is_better=better is not False and bool(better),
        slices=tuple(rows.index),
        values=values,
        stderrs=tuple(_number(value) for value in rows["stderr"]),
        outcomes=outcomes,
        item_ids=ids,
        subjects=subjects,
    )


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):  # lm-eval writes "N/A" where it has no standard error
        return float("nan")


def _items(
    folder: Path, task: str, metric: str, members: list[Member]
) -> tuple[paired.Floats, tuple[str, ...], tuple[str, ...]] | None:
    """Scores (slices, items), ids and subjects of the items; None where no outcomes were kept."""
    tables = []
    for member in members:
        path = folder / "samples" / member.slice.slug / f"{task}.parquet"
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
    for member, table in zip(members, tables, strict=True):
        if not np.array_equal(table["_id"].to_numpy(), ids):
            raise InputError(
                f"{folder}: samples of {task}: slices {members[0].name} and {member.name} were "
                "scored on different items; run the sweep again with one limit and one dataset"
            )
    scores = np.stack([table[metric].to_numpy(dtype=np.float64) for table in tables])
    return scores, tuple(ids), tuple(first["_subject"])


def _outcomes(
    names: tuple[str, ...],
    scores: paired.Floats,
    ids: tuple[str, ...],
    subjects: tuple[str, ...],
    values: tuple[float, ...],
) -> paired.Outcomes | None:
    """The outcomes, if their mean (over items, or over subjects) is the reported score."""
    for macro in (False, True):
        outcomes = paired.make_outcomes(names, scores, subjects, macro=macro)
        if np.allclose(outcomes.values, values, rtol=0, atol=_EXACT):
            return outcomes
    return None  # a metric that is no mean of items, such as a corpus-level F1
