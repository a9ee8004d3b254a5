"""A finished sweep, read back from its folder: what the figure, the page and the gate work from.

Reads `slices.json`, `results.parquet`, `samples/` and `recipe.yaml`; no model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from matformer_lab import frontier
from matformer_lab.errors import InputError, one_line
from matformer_lab.slices import Slice

if TYPE_CHECKING:
    import pandas as pd

TITLES = {"hellaswag": "HellaSwag", "boolq": "BoolQ", "mmlu": "MMLU", frontier.AVERAGE: "Average"}
_FEW = 2
_EXACT = 1e-6  # how closely the mean over items must meet the reported score


@dataclass(frozen=True)
class Member:
    """A slice of the sweep, with its sizes in parameters and bytes."""

    slice: Slice
    total: int
    text: int
    effective: int
    bytes: int
    published: Mapping[str, Any] | None  # {"row", "effective_params_b", "mmlu" in percent}

    @property
    def name(self) -> str:
        return self.slice.name

    def published_score(self, task: str) -> float | None:
        """Published score on `task`, as a fraction."""
        value = (self.published or {}).get(task)
        return value / 100 if isinstance(value, int | float) else None


@dataclass(frozen=True)
class ParentInfo:
    """What is known of the parent without opening it."""

    ref: str
    name: str
    fingerprint: str
    revision: str | None
    provisional: bool
    intermediate_size: tuple[int, ...]
    layer_types: tuple[str, ...]
    first_kv_shared_layer: int

    @property
    def num_hidden_layers(self) -> int:
        return len(self.intermediate_size)


@dataclass(frozen=True)
class TaskScores:
    """The scores of one task as reported, and item by item where that is possible."""

    name: str
    metric: str
    num_fewshot: int | None
    n: int
    higher_is_better: bool
    slices: tuple[str, ...]
    values: tuple[float, ...]
    stderrs: tuple[float, ...]
    outcomes: frontier.Outcomes | None
    item_ids: tuple[str, ...]  # "subject/doc", in the order of the outcomes' columns
    subjects: tuple[str, ...]


@dataclass(frozen=True)
class Finished:
    """One sweep folder."""

    folder: Path
    parent: ParentInfo
    members: tuple[Member, ...]  # from small to large
    tasks: tuple[TaskScores, ...]
    recipe: Mapping[str, Any]

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Versions, revisions and hashes of the run."""
        as_run = self.recipe.get("as_run")
        return as_run if isinstance(as_run, Mapping) else {}

    @cached_property
    def study(self) -> frontier.Study:
        """All paired comparisons of the sweep; seconds for a full-size one."""
        paired = {task.name: task.outcomes for task in self.tasks if task.outcomes is not None}
        return frontier.study(paired)

    @cached_property
    def panels(self) -> tuple[frontier.Panel, ...]:
        """One panel a task, in the recipe's order, then the average where there is one."""
        panels = [
            self.study.panels.get(task.name)
            or frontier.unpaired(
                task.name,
                task.slices,
                task.values,
                task.stderrs,
                task.n,
                higher_is_better=task.higher_is_better,
            )
            for task in self.tasks
        ]
        average = self.study.panels.get(frontier.AVERAGE)
        return (*panels, average) if average is not None else tuple(panels)

    def title(self, panel: str) -> str:
        """A panel's name for people: task, few-shot count, metric."""
        title = TITLES.get(panel, panel)
        for task in self.tasks:
            if task.name == panel:
                shots = "" if task.num_fewshot is None else f", {task.num_fewshot}-shot"
                return f"{title}{shots}, {task.metric}"
        return f"{title} of {len(self.study.panels) - 1} tasks"

    @property
    def effective(self) -> dict[str, float]:
        return {member.name: float(member.effective) for member in self.members}

    @property
    def whole(self) -> str | None:
        """The slice that is the parent itself, if it was scored."""
        for member in self.members:
            if not member.slice.skipped and member.slice.widths == self.parent.intermediate_size:
                return member.name
        return None

    @property
    def nested(self) -> str | None:
        """The nested model the parent was trained with, published as E2B, if it was scored."""
        for member in self.members:
            if "E2B" in str((member.published or {}).get("row", "")) or member.name == "e2b":
                return member.name
        return None

    @property
    def smallest(self) -> str | None:
        """The slice to mark at the small end: the nested E2B, else the smallest slice."""
        others = (member.name for member in self.members if member.name != self.whole)
        return self.nested or next(others, None)

    def role(self, name: str) -> str | None:
        """What is special about a slice, in a word or two."""
        if name == self.whole:
            return "parent"
        if name != self.smallest:
            return None
        if name != self.nested:
            return "smallest"
        return "nested smallest" if name == self.members[0].name else "nested E2B"

    @property
    def published_tasks(self) -> tuple[str, ...]:
        """Tasks that some slice has a published score for."""
        keys = {key for member in self.members for key in (member.published or {})}
        return tuple(
            key
            for key in sorted(keys - {"row", "effective_params_b"})
            if any(member.published_score(key) is not None for member in self.members)
        )

    @property
    def published_apart(self) -> dict[str, list[tuple[str, float, float]]]:
        """Published scores that need axes of their own, because this parent is another size:
        task -> (slice, effective parameters in billions, score); tasks with a few points only."""
        if self.published_fits:
            return {}
        apart = {
            task: [
                (member.name, float(member.published["effective_params_b"]), score)
                for member in self.members
                if member.published and (score := member.published_score(task)) is not None
            ]
            for task in self.published_tasks
        }
        return {task: points for task, points in apart.items() if len(points) > _FEW}

    def scores(self) -> pd.DataFrame:
        """A row for each slice and panel, from small to large: score and its own interval in
        points, verdict, and by which slice it is dominated, if it is.
        """
        import pandas as pd

        rows = []
        for panel in self.panels:
            standing = frontier.rank(panel, self.effective)
            for i, name in enumerate(panel.slices):
                rows.append(
                    {
                        "slice": name,
                        "effective_params": int(self.effective[name]),
                        "task": panel.name,
                        "score": 100 * float(panel.values[i]),
                        "low": 100 * float(panel.intervals[i, 0]),
                        "high": 100 * float(panel.intervals[i, 1]),
                        "verdict": standing.verdicts[i],
                        "dominated_by": standing.dominated_by[i],
                    }
                )
        return pd.DataFrame(rows)

    def _repr_html_(self) -> str:
        """Slices by panels for a notebook: each score with its interval and verdict."""
        from matformer_lab.tables import html_table

        cells = {
            (row.slice, row.task): f"{row.score:.1f} [{row.low:.1f}, {row.high:.1f}] {row.verdict}"
            for row in self.scores().itertuples()
        }
        head = ["slice", "effective", *(self.title(panel.name) for panel in self.panels)]
        table = [
            [
                member.name,
                f"{member.effective:,}",
                *(cells.get((member.name, panel.name), "") for panel in self.panels),
            ]
            for member in self.members
        ]
        return html_table(head, table)

    def comparison(self, a: str, b: str) -> pd.DataFrame:
        """Slice `a` against `b`, a row for each panel that has both: difference and simultaneous
        interval in points, discordant items, p-value, and the items needed to separate the two.

        Raises InputError for a slice that the sweep does not have.
        """
        import pandas as pd

        known = [member.name for member in self.members]
        for name in (a, b):
            if name not in known:
                raise InputError(f"{self.folder}: no slice {name!r}; it has {', '.join(known)}")
        rows = []
        for panel in self.panels:
            if a not in panel.slices or b not in panel.slices:
                continue
            found = panel.compare(a, b)
            plan = frontier.items_needed(panel, a, b)
            rows.append(
                {
                    "task": panel.name,
                    "difference": 100 * found.difference,
                    "low": 100 * found.low,
                    "high": 100 * found.high,
                    "separable": found.separable,
                    f"only {a}": found.wins,
                    f"only {b}": found.losses,
                    "p_holm": found.p_holm,
                    "items": plan.have,
                    "items_needed": plan.need,
                    "detectable": 100 * plan.detectable,
                }
            )
        return pd.DataFrame(rows).convert_dtypes()

    @property
    def published_fits(self) -> bool:
        """Are the published labels on the same scale as the measured sizes? Not for a miniature."""
        ratios = [
            member.effective / (member.published["effective_params_b"] * 1e9)
            for member in self.members
            if member.published and "effective_params_b" in member.published
        ]
        return bool(ratios) and all(0.95 < ratio < 1.05 for ratio in ratios)


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
        provisional=bool(entry.get("provisional", False)),
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
) -> tuple[frontier.Floats, tuple[str, ...], tuple[str, ...]] | None:
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
    scores: frontier.Floats,
    ids: tuple[str, ...],
    subjects: tuple[str, ...],
    values: tuple[float, ...],
) -> frontier.Outcomes | None:
    """The outcomes, if their mean (over items, or over subjects) is the reported score."""
    for macro in (False, True):
        outcomes = frontier.make_outcomes(names, scores, subjects, macro=macro)
        if np.allclose(outcomes.values, values, rtol=0, atol=_EXACT):
            return outcomes
    return None  # a metric that is no mean of items, such as a corpus-level F1
