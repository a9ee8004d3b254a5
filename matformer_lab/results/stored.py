"""Stored scores as witnesses: what results and samples say must be what was stored.

`sweep.store` writes one file for each score, with the key it rests on. A sweep's tables are made
from these files alone, so a table that says otherwise was changed since.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from matformer_lab.common.errors import InputError
from matformer_lab.common.files.untrusted import read_small
from matformer_lab.results.files import RECIPE_YAML, STORE
from matformer_lab.results.tables.recipe_as_run import RecipeAsRun
from matformer_lab.results.tables.result_row import ResultRow, RowKey
from matformer_lab.results.tables.score_file import MAX_SCORE_BYTES, parse_score

_CLOSE: Final = 1e-12
_VERSIONS: Final = ("lm_eval", "torch", "transformers")


class _StoredMetric(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    task: str
    group: str | None
    metric: str
    value: float
    stderr: float | None
    n: int


class _Content(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    key: dict[str, Any]
    rows: tuple[_StoredMetric, ...]


@dataclass(frozen=True)
class StoredScore:
    """A score as it was stored.

    Attributes:
        path: Its file, whose table is the per-item outcomes.
        slice: Digest of the slice's widths and skipped layers.
        task: The task's name.
    """

    path: Path
    slice: str
    task: str
    _content: _Content

    def rests_on(self, wanted: Mapping[str, Any]) -> bool:
        """Whether the score's key has these values, as far as both know them."""
        key = self._content.key
        return all(key.get(name, value) == value for name, value in wanted.items())

    def contradicts(self, wanted: Mapping[str, Any]) -> str:
        """Where the score's key has other values than these, in words."""
        key = self._content.key
        return "; ".join(
            f"{name} is {value}, stored {key[name]}"
            for name, value in wanted.items()
            if key.get(name, value) != value
        )

    def difference(self, slice_: str, rows: Mapping[RowKey, ResultRow]) -> str | None:
        """How the results differ from what was stored, in words; None if they do not."""
        for metric in self._content.rows:
            key = RowKey(slice_, metric.task, metric.group, metric.metric)
            row = rows.get(key)
            if row is None:
                return f"has no score of {key}, but {self.path.name} of the store has"
            for name in ("value", "stderr", "n"):
                said, stored = getattr(row, name), getattr(metric, name)
                if not _same(said, stored):
                    return f"{name} of {key} is {said}, but {stored} in the store"
        return None


def _same(a: float | None, b: float | None) -> bool:
    absent = [x is None or math.isnan(x) for x in (a, b)]
    if any(absent):
        return all(absent)
    assert a is not None and b is not None
    return math.isclose(a, b, rel_tol=_CLOSE)


def stored_scores(folder: Path) -> list[StoredScore]:
    """Every readable score in a sweep's store; none where there is no store."""
    found = []
    for path in sorted((folder / STORE).glob("*/*.parquet")):
        content = _content(path)
        if content is not None:
            slice_, task = str(content.key.get("slice")), str(content.key.get("task"))
            found.append(StoredScore(path, slice_, task, content))
    return found


def _content(path: Path) -> _Content | None:
    """None for a file that cannot be read: the sweep scores again what it was to hold."""
    try:
        return _Content.model_validate(parse_score(read_small(path, MAX_SCORE_BYTES)).content)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def witness(
    scores: Iterable[StoredScore],
    rows: Mapping[RowKey, ResultRow],
    recipe: RecipeAsRun,
    *,
    slice_: str,
    digest: str,
    task: str,
    where: Path,
) -> StoredScore | None:
    """The stored score that a slice's results on a task were made from; None where none is stored.

    Args:
        scores: The store.
        rows: The results.
        recipe: What the sweep ran with; tells its scores from those of earlier runs.
        slice_: The slice's name.
        digest: Its digest.
        task: The task's name.
        where: results.parquet, for the error.

    Raises:
        InputError: When a score is there, and the results or the recipe say otherwise.
    """
    scores = list(scores)
    wanted = _wanted(recipe, task)
    candidates = [
        one for one in scores if (one.slice, one.task) == (digest, task) and one.rests_on(wanted)
    ]
    others = [one for one in scores if (one.slice, one.task) == (digest, task)]
    if others and not candidates:
        raise InputError(
            f"{where.parent / RECIPE_YAML}: contradicts every stored score of {slice_} on {task} "
            f"({others[-1].contradicts(wanted)}); run the sweep again"
        )
    differences = []
    for one in candidates:
        difference = one.difference(slice_, rows)
        if difference is None:
            return one
        differences.append(difference)
    if differences:
        raise InputError(f"{where}: {differences[0]}; run the sweep again to rewrite its tables")
    return None


def _wanted(recipe: RecipeAsRun, task: str) -> dict[str, Any]:
    """What the key of a score of this sweep holds, as far as recipe.yaml says."""
    ran, as_run = recipe.as_run.tasks.get(task), recipe.as_run
    known: dict[str, Any] = {
        "tokenizer": as_run.tokenizer.sha256,
        "task_version": ran.version if ran else None,
        "prompt_hash": ran.prompt_hash if ran else None,
        "dtype": None if recipe.dtype == "auto" else recipe.dtype,
        "seed": recipe.seed,
        **{name: as_run.versions.get(name) for name in _VERSIONS},
    }
    if as_run.parent.revision is None:
        known["parent"] = as_run.parent.fingerprint
    wanted = {name: value for name, value in known.items() if value is not None}
    if "limit" in recipe.model_fields_set:
        wanted["limit"] = recipe.limit
    return wanted
