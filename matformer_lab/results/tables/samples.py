"""What a slice scored item by item: a file of samples/, read back and checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from matformer_lab.common.errors import InputError
from matformer_lab.results.tables.parquet import columns_of, read_parquet
from matformer_lab.statistics.outcomes import Floats

_NUMBERS: Final = (int, float)  # bool is an int


@dataclass(frozen=True)
class Item:
    """Which question an item is.

    Attributes:
        subject: The task inside a group that it belongs to; the task itself if there is no group.
        doc: Its number in the dataset.
        content: A hash of its content; None in a table without one.
    """

    subject: str
    doc: int | str
    content: str | None

    @property
    def id(self) -> str:
        """ "subject/doc"."""
        return f"{self.subject}/{self.doc}"


@dataclass(frozen=True)
class Samples:
    """What one slice scored on the items of one task.

    Attributes:
        items: Sorted by subject and number.
        scores: [items]; None where the metric has no score for each item.
    """

    items: tuple[Item, ...]
    scores: Floats | None


def read_samples(path: Path, *, task: str, metric: str, slice_: str | None = None) -> Samples:
    """Read one slice's samples of one task.

    Args:
        path: A file of samples/, or of the store.
        task: The task's name.
        metric: The one to read.
        slice_: The slice's name, if the file must name it.

    Raises:
        InputError: When the file is missing or damaged, holds no items or another slice's or
            task's, or a score is missing or not finite; names the item.
    """
    columns = columns_of(
        read_parquet(path, ["slice", "task", "subtask", "doc_id", "doc_hash", metric])
    )
    if "doc_id" not in columns:
        raise InputError(f"{path}: no column doc_id")
    if not columns["doc_id"]:
        raise InputError(f"{path}: has no rows")
    for name, wanted in (("slice", slice_), ("task", task if slice_ is not None else None)):
        others = {str(value) for value in columns.get(name, ())} - {str(wanted)}
        if wanted is not None and others:
            raise InputError(f"{path}: holds samples of {name} {min(others)}, not of {wanted}")
    items = _items(columns, task, path)
    order = sorted(range(len(items)), key=lambda at: (items[at].subject, items[at].doc))
    scores = _scores(columns.get(metric), items, metric, path)
    return Samples(
        items=tuple(items[at] for at in order),
        scores=None if scores is None else scores[order],
    )


def _items(columns: dict[str, list[Any]], task: str, path: Path) -> list[Item]:
    docs = columns["doc_id"]
    kinds = {type(doc) for doc in docs}
    if kinds not in ({int}, {str}):
        raise InputError(f"{path}: doc_id must hold a number for every item, or text for every one")
    subjects = columns.get("subtask") or [task] * len(docs)
    contents = columns.get("doc_hash") or [None] * len(docs)
    if not all(isinstance(subject, str) for subject in subjects):
        raise InputError(f"{path}: subtask must hold a name for every item")
    items = [Item(*parts) for parts in zip(subjects, docs, contents, strict=True)]
    ids = [item.id for item in items]
    if len(set(ids)) < len(ids):
        twice = next(one for one in ids if ids.count(one) > 1)
        raise InputError(f"{path}: an item is listed twice ({twice})")
    return items


def _scores(column: list[Any] | None, items: list[Item], metric: str, path: Path) -> Floats | None:
    """The scores of the items; None if the metric has none, for all or for some subjects."""
    if column is None:
        return None
    scored = {item.subject for item, value in zip(items, column, strict=True) if value is not None}
    for item, value in zip(items, column, strict=True):
        if value is None and item.subject not in scored:
            continue  # a group may hold tasks that do not have this metric
        if not isinstance(value, _NUMBERS) or not np.isfinite(value):
            what = "is missing" if value is None else f"is {value!r}, not a finite number"
            raise InputError(f"{path}: {metric} of item {item.id} {what}")
    if scored < {item.subject for item in items}:
        return None
    return np.array(column, dtype=np.float64)
