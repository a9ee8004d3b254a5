"""Which of a sweep's scores Google published too: shown beside them, never mixed with them.

There are two sources. The model card has scores of E4B and of E2B on many benchmarks, for the
pre-trained and for the instruction-tuned model (`model_card`). The table of the slicing configs has
an MMLU score of each of the 16 slices of the pre-trained one (`ScoredSlice.published`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from matformer_lab.results.model_card import Variant, model_card
from matformer_lab.results.tables.description import Description, ParentInfo, ScoredSlice
from matformer_lab.slicing.e4b import e4b_config

COLUMN: Final = "published"
"""The column of results.csv with the published score, as a fraction, where there is one."""

_E2B_SKIPS: Final = (20, 21, 22, 23, 24)
_CLOSE: Final = 0.05


def card_variant(parent: ParentInfo) -> Variant | None:
    """Which of the card's models a parent is; None for any other.

    It has to be called as Google calls it (a folder or a repository named `gemma-3n-E4B-it`) and be
    of E4B's size: a fine-tune under another name and a miniature are models of their own.
    """
    e4b = e4b_config()
    same_size = (parent.hidden_size, parent.intermediate_size, parent.layer_types) == (
        e4b.hidden_size,
        e4b.intermediate_size,
        e4b.layer_types,
    )
    name = parent.name.partition("@")[0].rstrip("/").rpartition("/")[2].lower()
    known = {known.lower(): variant for known, variant in model_card().parents.items()}
    return known.get(name) if same_size else None


def nested_model(parent: ParentInfo, scored: ScoredSlice) -> Literal["e4b", "e2b"] | None:
    """Which of the two published models a slice is, by its layers; None for any other."""
    full = parent.intermediate_size
    if not scored.skipped and scored.widths == full:
        return "e4b"
    halves = tuple(width // 2 for layer, width in enumerate(full) if layer not in scored.skipped)
    return "e2b" if scored.skipped == _E2B_SKIPS and scored.widths == halves else None


def card_score(
    parent: ParentInfo, scored: ScoredSlice, task: str, metric: str, num_fewshot: int | None
) -> float | None:
    """The model card's score, as a fraction; None where it has none in these shots and metric."""
    variant, model = card_variant(parent), nested_model(parent, scored)
    if variant is None or model is None:
        return None
    for benchmark in model_card().benchmarks:
        if benchmark.variant == variant and benchmark.measured_by(task, metric, num_fewshot):
            return float(getattr(benchmark.published, model)) / 100
    return None


def slice_score(parent: ParentInfo, scored: ScoredSlice, task: str) -> float | None:
    """The score in the table of the published slices, as a fraction; None where there is none.

    That table is of the pre-trained model.
    """
    return None if card_variant(parent) == "IT" else scored.published_score(task)


def sizes_fit(parent: ParentInfo, scored: Sequence[ScoredSlice]) -> bool:
    """Whether the published sizes are those of this parent's slices, within 5 %.

    They are not where the parent is a miniature.
    """
    if card_variant(parent) is not None:
        return True
    ratios = [
        one.effective / (one.published["effective_params_b"] * 1e9)
        for one in scored
        if one.published and "effective_params_b" in one.published
    ]
    return bool(ratios) and all(abs(ratio - 1) < _CLOSE for ratio in ratios)


def with_published(
    rows: Sequence[Mapping[str, Any]],
    description: Description,
    task_names: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """The rows of results.csv with the column `published`.

    It is NaN for tasks inside a group, and for a parent of another size than the published one.

    Args:
        rows: As `result_rows` makes them.
        description: Of the parent and the slices.
        task_names: lm-eval's names of tasks that the rows call otherwise.
    """
    parent = description.parent
    by_name = {scored.name: scored for scored in description.slices}
    fits = sizes_fit(parent, description.slices)

    def published(row: Mapping[str, Any]) -> float:
        if not fits or row["group"] is not None:
            return math.nan
        scored = by_name[row["slice"]]
        task = (task_names or {}).get(row["task"], row["task"])
        score = card_score(parent, scored, task, row["metric"], row["num_fewshot"])
        if score is None and row["primary"]:
            score = slice_score(parent, scored, task)
        return math.nan if score is None else round(score, 6)

    return [{**row, COLUMN: published(row)} for row in rows]
