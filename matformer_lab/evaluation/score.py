"""A finished score: metrics and one record per item."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Metric:
    """One metric of one task, or of a task inside a group. `value` and `stderr` as lm-eval's."""

    task: str
    group: str | None
    metric: str
    value: float
    stderr: float | None
    n: int
    num_fewshot: int | None
    higher_is_better: bool | None
    version: str


@dataclass(frozen=True)
class Score:
    """Metrics, the recipe's task first, and one record per item.

    An item: subtask, doc_id, every metric of the item that is a number, target, and for
    log-likelihood tasks logprobs and is_greedy (one for each request) and choice (the likeliest).
    """

    metrics: tuple[Metric, ...]
    items: tuple[Mapping[str, Any], ...]
