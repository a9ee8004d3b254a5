"""search.json: what was searched, measured and found; enough to ask the surrogate again."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from matformer_lab.common.errors import InputError
from matformer_lab.common.files.strict_json import strict_json
from matformer_lab.common.files.untrusted import read_small
from matformer_lab.common.validation import explain
from matformer_lab.results.files import SEARCH_JSON

_MAX_BYTES: Final = 1 << 28


class _Model(BaseModel):
    # Folders written by later versions may hold more keys; they stay readable.
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class LimitRecord(_Model):
    """A limit of a budget, and what the found slice takes of it."""

    kind: str
    written: str
    most: int
    taken: int


class BudgetRecord(_Model):
    """A budget, its slice, and what that was compared with.

    Attributes:
        name: The found slice's.
        limits: All of the budget's.
        pattern: The found slice: the width of each layer, 0 where it is skipped.
        effective: Its effective parameters.
        predicted: Its objective by the last surrogate.
        measured: Its objective on the first calibration set; None where it was not measured.
        same_as: The smaller budget that has the same slice; None: none has.
        published: Names of the compared slices.
        random: Names of the random slices.
    """

    name: str
    limits: tuple[LimitRecord, ...]
    pattern: tuple[int, ...]
    effective: int
    predicted: float
    measured: float | None
    same_as: str | None
    published: tuple[str, ...]
    random: tuple[str, ...]


class MeasuredRecord(_Model):
    """A measured slice: its objective, and that of each task alone, on the first set."""

    pattern: tuple[int, ...]
    objective: float
    tasks: tuple[float, ...]


class ScanRecord(_Model):
    """A one-step change around a base: how much better it is, paired, with its standard error."""

    base: str
    layer: int
    width: int
    difference: float
    stderr: float


class CandidateRecord(_Model):
    """A slice that the surrogate proposed, and what it measured."""

    budget: str
    pattern: tuple[int, ...]
    predicted: float
    measured: float
    round: int


class CostRecord(_Model):
    """What a search cost.

    Attributes:
        evaluations: One slice on one calibration set each.
        layer_forwards: Layers computed for the slices of the first set, shared ones once.
        unshared: The same if nothing were shared.
        search_seconds: Of the search, scores from an earlier call not counted.
        proof_seconds: Of the proof.
    """

    evaluations: int
    layer_forwards: int
    unshared: int
    search_seconds: float
    proof_seconds: float


class SearchRecord(_Model):
    """Everything about a search.

    Attributes:
        parent: As the recipe names it.
        parent_name: For people.
        fingerprint: Of the parent's files.
        settings: The recipe's keys as written.
        choices: What each layer may be.
        skip_sets: The sets of skipped layers; None: any.
        uniform: Whether all layers have one width.
        tasks: The tasks of the objective.
        split: The places of the items by part (`set 0` ..., `proof`) and leaf task.
        budgets: From small to large.
        measured: Every slice measured on the first set.
        scan: The scan's one-step changes.
        candidates: Everything the surrogate proposed.
        link: What the last surrogate adds up.
        rank_correlation: Spearman's, of predicted and measured over the candidates.
        cost: What it took.
    """

    made_by: Literal["matformer_lab"] = "matformer_lab"
    kind: Literal["search"] = "search"
    format: Literal[1] = 1
    version: str
    parent: str
    parent_name: str
    fingerprint: str
    settings: dict[str, Any]
    choices: tuple[tuple[int, ...], ...]
    skip_sets: tuple[tuple[int, ...], ...] | None
    uniform: bool
    nested: bool
    tasks: tuple[str, ...]
    split: dict[str, dict[str, list[int]]]
    budgets: tuple[BudgetRecord, ...]
    measured: tuple[MeasuredRecord, ...]
    scan: tuple[ScanRecord, ...]
    candidates: tuple[CandidateRecord, ...]
    link: tuple[str, ...]
    rank_correlation: float | None
    cost: CostRecord


def read_record(folder: Path) -> SearchRecord:
    """The record of a finished search.

    Raises:
        InputError: When there is none, or it is not valid.
    """
    path = folder / SEARCH_JSON
    if not path.exists():
        raise InputError(f"{path}: not found; {folder} is not the folder of a finished search")
    written = strict_json(read_small(path, _MAX_BYTES), str(path))
    try:
        return SearchRecord.model_validate(written)
    except ValidationError as error:
        raise InputError(f"{path}: {explain(error, SearchRecord)}") from None
