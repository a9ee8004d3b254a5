"""A finished score: metrics, and one record per item."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Metric:
    """One metric of one task, or of a task inside a group, as lm-eval reports it.

    Attributes:
        task: lm-eval's name.
        group: The recipe's task that `task` is part of; None where it is the recipe's task itself.
        metric: lm-eval's name, followed by the filter's where a task has several
            (`exact_match,strict-match`).
        value: In lm-eval's unit, for accuracies a fraction.
        stderr: Standard error of `value`; None where lm-eval gives none.
        n: How many items the metric is over.
        num_fewshot: Examples in the prompt; None where the tasks of a group differ.
        higher_is_better: None where the task does not say, or the tasks of a group differ.
        version: lm-eval's version of the task.
    """

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
    """The score of one slice on one task.

    Attributes:
        metrics: The recipe's task first, then the tasks in it.
        items: One record per item: `subtask`, `doc_id`, `doc_hash`, `prompt_hash`, `target`, and
            every metric that the item has a number for. Log-likelihood tasks also have `logprobs`
            and `is_greedy` (one entry per request), and multiple choice has `choice`, the index of
            the likeliest answer. Rolling log-likelihoods have `logprobs`, generation has
            `responses` (the texts) and, for each filter, what it `extracted` from them.
    """

    metrics: tuple[Metric, ...]
    items: tuple[Mapping[str, Any], ...]
