"""Stored scores compared with lm-eval's own backend, on a few items of each task."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from matformer_lab.common.errors import InputError
from matformer_lab.evaluation.models.lm import make_lm
from matformer_lab.parent.hub import with_weights
from matformer_lab.results.files import STORE
from matformer_lab.sweep.executors.score_pass import load_elastic
from matformer_lab.sweep.jobs import Job, prepare
from matformer_lab.sweep.recipe import Recipe
from matformer_lab.sweep.scores.store import Store

if TYPE_CHECKING:
    from matformer_lab.evaluation.difference import Difference
    from matformer_lab.scoring.slice_scoring import Answer


class _RequestId(NamedTuple):
    """Which request of lm-eval an answer belongs to."""

    task: str
    doc: int
    number: int


@dataclass(frozen=True)
class ScoreCheck:
    """How a stored score differs from lm-eval's `HFLM` on some of its items."""

    slice: str
    task: str
    difference: Difference

    def __str__(self) -> str:
        found = self.difference
        return (
            f"{self.slice}  {self.task}: {found.items} items, {found.requests} requests; largest "
            f"difference of a log-probability {found.largest:.1e}, {found.greedy_flips} greedy "
            "flags differ"
        )


def check_scores(recipe: Recipe, out: Path, items: int) -> tuple[ScoreCheck, ...]:
    """Score some items of every task again with lm-eval, on the recipe's first slice.

    Args:
        recipe: Of the sweep.
        out: The sweep's folder.
        items: How many items of each task.

    Returns:
        A check for each task that has log-likelihood requests.

    Raises:
        InputError: When `out` does not hold the recipe's scores.
    """
    from matformer_lab.evaluation.difference import difference_from_lm_eval

    prepared = prepare(recipe)
    store = Store(out / STORE)
    first = replace(prepared, parent=with_weights(prepared.parent), sized=prepared.sized[:1])
    elastic = load_elastic(first)
    checks = []
    for job in first.jobs:
        stored = _answers(job, store)
        requests = [request for request in job.task.requests if _id_of(request) in stored]
        if not requests:
            continue
        lm = make_lm(
            elastic.live(job.slice),
            prepared.tokenizer,
            scorer="lm-eval",
            batch_size=recipe.batch_size,
        )
        # With this cache, lm-eval 0.4.13 misreads a text that is split in two places.
        lm.logits_cache = False
        answers = [stored[_id_of(request)] for request in requests]
        difference = difference_from_lm_eval(lm, requests, answers, items=items)
        checks.append(ScoreCheck(job.name, job.task.name, difference))
    return tuple(checks)


def _answers(job: Job, store: Store) -> dict[_RequestId, Answer]:
    """The stored answers by task, document and number of the request."""
    from matformer_lab.scoring.slice_scoring import Answer

    if store.get(job.key) is None:
        raise InputError(
            f"{store.folder.parent}: does not hold every score of the recipe; run the sweep first"
        )
    return {
        _RequestId(item["subtask"], item["doc_id"], number): Answer(*answer)
        for item in store.items(job.key).to_pylist()
        if item.get("is_greedy")
        for number, answer in enumerate(zip(item["logprobs"], item["is_greedy"], strict=True))
    }


def _id_of(request: Any) -> _RequestId:
    return _RequestId(request.task_name, request.doc_id, request.idx)
