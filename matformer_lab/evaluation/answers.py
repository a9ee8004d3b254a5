"""How sure a slice is of the right answers: the log-probability of each, among its choices.

Accuracy turns an item into 0 or 1; this keeps how near it was, so that far fewer items tell two
slices apart. A search measures hundreds of slices by it, on the items of several tasks at once, and
without lm-eval's evaluator, which takes longer than the model does where that is small.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from matformer_lab.common.errors import InputError
from matformer_lab.evaluation.finite import NotFiniteError, NotFiniteScoresError, check_finite
from matformer_lab.evaluation.quiet import templates_compiled_once
from matformer_lab.evaluation.score import Metric, Score
from matformer_lab.evaluation.tasks.loading import LoadedTask

if TYPE_CHECKING:
    from transformers import Gemma3nForCausalLM

    from matformer_lab.scoring.slice_scoring import Answer

ANSWERS: Final = "answers"
"""The name under which these scores are stored."""
METRIC: Final = "logprob"
_VERSION: Final = "answers v1"
"""Changed when the values change, so that stored ones count as stale."""


@dataclass(frozen=True)
class Item:
    """An item: which of the task's requests are its choices, and which of these is right.

    Attributes:
        subtask: The leaf task.
        doc_id: The document's place in it.
        choices: How many requests are choices; 1: the text that has to be predicted.
        requests: How many requests it has in all.
        right: The right choice.
    """

    subtask: str
    doc_id: int
    choices: int
    requests: int
    right: int


@dataclass(frozen=True)
class AnswersTask(LoadedTask):
    """The items of several tasks, as one task that a pass scores at once.

    Attributes:
        parts: The number of items of each of the tasks, by name, in the order of the items.
        answers: The items, in the order of the requests.
    """

    parts: tuple[tuple[str, int], ...] = ()
    answers: tuple[Item, ...] = ()


def answers_task(tasks: Sequence[LoadedTask]) -> AnswersTask:
    """The items of all tasks as one.

    Args:
        tasks: Of a recipe, with their requests built.

    Raises:
        InputError: When a task has no right answers to look at.
    """
    with templates_compiled_once(sandboxed=any(task.sandboxed for task in tasks)):
        answers = {task.name: tuple(_items(task)) for task in tasks}
    hashes = "\n".join(f"{task.name} {task.prompt_hash}" for task in tasks)
    leaves = Counter(leaf for task in tasks for leaf in task.chosen or {})
    twice = {leaf for leaf, count in leaves.items() if count > 1}
    return AnswersTask(
        name=ANSWERS,
        metric=METRIC,
        num_fewshot=None,
        num_fewshot_asked=None,
        limit=None,
        version=_VERSION,
        prompt_hash=hashlib.sha256(hashes.encode()).hexdigest(),
        datasets=tuple(sorted({name for task in tasks for name in task.datasets})),
        items=sum(task.items for task in tasks),
        prompt_chars=sum(task.prompt_chars for task in tasks),
        # Under any names: a task that is there twice, in two settings, has its leaf tasks twice.
        task_dict={
            "tasks": {
                f"{task.name} {leaf}": each
                for task in tasks
                for leaf, each in task.subtasks.items()
            }
        },
        chosen={
            leaf if leaf not in twice else f"{task.name} {leaf}": places
            for task in tasks
            for leaf, places in (task.chosen or {}).items()
        },
        files=tuple(dict.fromkeys(file for task in tasks for file in task.files)),
        parts=tuple((name, len(items)) for name, items in answers.items()),
        answers=tuple(item for items in answers.values() for item in items),
    )


def _items(task: LoadedTask) -> Iterator[Item]:
    for leaf, subtask in task.subtasks.items():
        if subtask.OUTPUT_TYPE not in ("multiple_choice", "loglikelihood"):
            raise InputError(
                f"tasks: {task.name} has no answers to choose from ({subtask.OUTPUT_TYPE}), so it "
                "cannot guide a search; leave it out"
            )
        by_document: dict[int, list[Any]] = {}
        for request in subtask.instances:
            by_document.setdefault(request.doc_id, []).append(request)
        for doc_id, requests in by_document.items():
            count = len(requests)
            if subtask.OUTPUT_TYPE == "loglikelihood":
                yield Item(leaf, doc_id, 1, count, 0)
                continue
            # acc_mutual_info scores every choice a second time, without its context.
            choices = count // (2 if "acc_mutual_info" in subtask.higher_is_better() else 1)
            right = _right(subtask, requests[0].doc)
            if not isinstance(right, int) or not 0 <= right < choices:
                raise InputError(
                    f"tasks: {task.name}, item {doc_id}: it does not say which of its {choices} "
                    f"choices is right ({right!r}), so it cannot guide a search; leave the task out"
                )
            yield Item(leaf, doc_id, choices, count, right)


def _right(subtask: Any, document: Any) -> Any:
    """The right choice's number, as lm-eval's `process_results` finds it."""
    if getattr(subtask, "multiple_input", 0):
        return subtask.doc_to_text(document)
    target = subtask.doc_to_target(document)
    if isinstance(target, str):
        choices = list(subtask.doc_to_choice(document))
        return choices.index(target) if target in choices else target
    return target


def score_answers(
    models: Mapping[str, Gemma3nForCausalLM],
    task: AnswersTask,
    answers: Callable[[], Mapping[str, Sequence[Answer]]],
) -> Iterator[tuple[str, Score, float]]:
    """Yield the scores of live slices on the items.

    Args:
        models: Live slices by name.
        task: The items.
        answers: Computes the log-likelihoods of the task's requests by slice.

    Yields:
        Name, score and seconds.

    Raises:
        NotFiniteScoresError: After the other scores, for the models whose log-probabilities are
            not numbers.
    """
    began = time.perf_counter()
    found = answers()
    seconds = (time.perf_counter() - began) / len(models)
    not_finite: dict[str, NotFiniteError] = {}
    for name, model in models.items():
        try:
            score = _score(task, found[name], model.dtype)
        except NotFiniteError as error:
            not_finite[name] = error
            continue
        yield name, score, seconds
    if not_finite:
        raise NotFiniteScoresError(not_finite)


def _score(task: AnswersTask, answers: Sequence[Answer], dtype: object) -> Score:
    items: list[dict[str, Any]] = []
    at = 0
    for item in task.answers:
        logprobs = [answer.logprob for answer in answers[at : at + item.choices]]
        at += item.requests
        for logprob in logprobs:
            check_finite(logprob, task=item.subtask, item=item.doc_id, dtype=dtype)
        items.append(
            {
                "subtask": item.subtask,
                "doc_id": item.doc_id,
                METRIC: among_choices(logprobs, item.right),
            }
        )
    values = [float(item[METRIC]) for item in items]
    metric = Metric(
        task=task.name,
        group=None,
        metric=METRIC,
        value=math.fsum(values) / len(values),
        stderr=None,
        n=len(values),
        num_fewshot=None,
        higher_is_better=True,
        version=task.version,
    )
    return Score((metric,), tuple(items))


def among_choices(logprobs: Sequence[float], right: int) -> float:
    """The log-probability of one of several texts, if one of them is certain to come.

    Args:
        logprobs: Of the texts; a single one has nothing to be compared with and keeps its own.
        right: Which of them.

    Examples:
        >>> round(math.exp(among_choices([-3.0, -3.0], 0)), 6)
        0.5
    """
    if len(logprobs) == 1:
        return logprobs[0]
    top = max(logprobs)
    return logprobs[right] - top - math.log(sum(math.exp(each - top) for each in logprobs))
