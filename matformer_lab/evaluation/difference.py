"""How far answers are from those of lm-eval's own backend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lm_eval.models.huggingface import HFLM

from matformer_lab.scoring.slice_scoring import Answer

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance


@dataclass(frozen=True)
class Difference:
    """How far answers are from those of lm-eval's own backend.

    Attributes:
        items: How many items were scored again.
        requests: How many requests these have.
        largest: Largest difference between two log-probabilities (natural logarithm); infinite
            where only one of the two is a number.
        greedy_flips: Requests whose greedy flags differ.
    """

    items: int
    requests: int
    largest: float
    greedy_flips: int


def difference_from_lm_eval(
    lm: HFLM, instances: Sequence[Instance], answers: Sequence[Answer], *, items: int
) -> Difference:
    """Score some items again with lm-eval's own backend and compare.

    Args:
        lm: lm-eval's backend over the same model.
        instances: A task's log-likelihood requests.
        answers: The answers to compare, one per instance.
        items: How many items to score, spread evenly over the task; at most all of them.
    """
    documents = list(dict.fromkeys((each.task_name, each.doc_id) for each in instances))
    count = min(items, len(documents))
    chosen = {documents[number * len(documents) // count] for number in range(count)}
    pairs = [
        (instance, answer)
        for instance, answer in zip(instances, answers, strict=True)
        if (instance.task_name, instance.doc_id) in chosen
    ]
    again = lm.loglikelihood([instance for instance, _ in pairs], disable_tqdm=True)
    differences = [
        (_distance(ours, theirs), our_greedy != their_greedy)
        for (_, (ours, our_greedy)), (theirs, their_greedy) in zip(pairs, again, strict=True)
    ]
    return Difference(
        items=count,
        requests=len(pairs),
        largest=max((delta for delta, _ in differences), default=0.0),
        greedy_flips=sum(flipped for _, flipped in differences),
    )


def _distance(one: float, other: float) -> float:
    """Infinite where only one of them is a number, so that a maximum cannot miss it."""
    if one == other or (math.isnan(one) and math.isnan(other)):
        return 0.0
    distance = abs(one - other)
    return math.inf if math.isnan(distance) else distance
