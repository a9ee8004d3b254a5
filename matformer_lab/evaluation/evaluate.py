"""Live slices on a loaded task, scored by lm-eval's own evaluator.

Metrics, standard errors and group aggregates are reported as lm-eval computes them. The scorer only
supplies log-likelihoods and texts: lm-eval's own `HFLM`, or `prefix_scorer`.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from matformer_lab.common.errors import InputError
from matformer_lab.evaluation.agreement import AgreementTask, score_agreement
from matformer_lab.evaluation.answers import AnswersTask, score_answers
from matformer_lab.evaluation.built_requests import requests_built
from matformer_lab.evaluation.finite import (
    NotFiniteError,
    NotFiniteScoresError,
    check_score,
    finite_logits,
)
from matformer_lab.evaluation.lm_eval_results import item_records, metric_rows
from matformer_lab.evaluation.models.lm import check_bos, make_lm
from matformer_lab.evaluation.quiet import quiet_lm_eval, templates_compiled_once
from matformer_lab.evaluation.score import Score
from matformer_lab.evaluation.tasks.loading import LoadedTask
from matformer_lab.live.devices import has_own_memory

if TYPE_CHECKING:
    from transformers import Gemma3nForCausalLM, PreTrainedTokenizerBase

    from matformer_lab.evaluation.tasks.entry import Scorer
    from matformer_lab.scoring.batches.packing import Request
    from matformer_lab.scoring.journal import Journal
    from matformer_lab.scoring.processes.pooled_scoring import PooledScoring
    from matformer_lab.scoring.slice_scoring import Answer

SCORER_VERSIONS: Final[Mapping[str, int]] = {"prefix": 2, "lm-eval": 1}
"""Incremented when a scorer's log-likelihoods change, so that stored scores count as stale."""
TEXTS_VERSION: Final = 2
"""Incremented when the texts change that the `prefix` scorer generates. 2: on a CPU, attention of
prompts that share nothing is another kernel, which rounds otherwise."""
BUDGETS_VERSION: Final = 1
"""Incremented when an accelerator's batches change: those of before there were versions are other
ones, and round otherwise."""
COMPILED_VERSION: Final = 1
"""Incremented when compiled layers, or their batches, change."""


def scorer_version(
    scorer: "Scorer", task: LoadedTask, device: str = "cpu", *, compiled: bool = False
) -> str:
    """Who scores `task`, and which version of what it uses: part of a stored score's key.

    Args:
        scorer: As in the recipe.
        task: With its requests built.
        device: Where it is scored.
        compiled: Whether by compiled layers.
    """
    version = f"{scorer} v{SCORER_VERSIONS[scorer]}"
    if scorer == "prefix" and _writes(task):
        version += f", texts v{TEXTS_VERSION}"
    if is_packed(scorer, task):
        if compiled:
            version += f", compiled v{COMPILED_VERSION}"
        elif has_own_memory(device):
            version += f", budgets v{BUDGETS_VERSION}"
    return version


def is_packed(scorer: "Scorer", task: LoadedTask) -> bool:
    """Whether packed batches are computed for `task`, and not lm-eval's or texts alone."""
    if isinstance(task, AgreementTask | AnswersTask):
        return True
    return scorer == "prefix" and any(
        request.request_type != "generate_until" for request in task.requests
    )


def _writes(task: LoadedTask) -> bool:
    """Whether a model has to generate texts for it."""
    return any(request.request_type == "generate_until" for request in task.requests)


class SliceScore(NamedTuple):
    """The score of one of several slices scored together."""

    name: str
    score: Score
    seconds: float
    """Its own time, and an equal share of the time spent on all of them at once."""


def score_together(
    models: "Mapping[str, Gemma3nForCausalLM]",
    tokenizer: "PreTrainedTokenizerBase",
    task: LoadedTask,
    *,
    scorer: "Scorer",
    batch_size: int | str = "auto",
    seed: int = 1234,
    compiled: bool = False,
    parent: "Callable[[], Gemma3nForCausalLM] | None" = None,
    progress: Callable[[float], None] = lambda _: None,
    journal: "Journal | None" = None,
    elsewhere: "PooledScoring | None" = None,
) -> Iterator[SliceScore]:
    """Yield the scores of live slices of one parent on `task`, in the order of `models`.

    The `prefix` scorer takes all slices through the log-likelihood requests in one pass, computes
    the layers they share once, and yields only then; texts it generates one slice after the other.
    `lm-eval` scores one slice after the other.

    Args:
        models: Live slices by name.
        tokenizer: The parent's.
        task: The task, with its requests built.
        scorer: Who computes log-likelihoods and texts.
        batch_size: Requests in one forward pass, for what lm-eval's own backend computes.
        seed: Of texts that are drawn.
        compiled: As for `score_slices`.
        parent: Makes the whole parent, for the task that compares slices with it.
        progress: Called with the fraction of the work done, 0 to 1.
        journal: As for `score_slices`; agreement keeps no batches in it.
        elsewhere: Gives the answers to `prefix_requests`, where they are not computed here.

    Raises:
        NotFiniteScoresError: After the other scores, for the models whose log-probabilities are
            not numbers.
        InputError: When an answer is longer than the model can read, when the tokenizer puts no
            BOS or two before a prompt, or when transformers is too old for `prefix`.
    """
    known: Mapping[str, Sequence[Answer]] = {}
    requests = _loglikelihoods(task)
    began = time.perf_counter()
    # The share of the work that is done for all slices at once; a guess if they write texts too.
    at_once = 0.5 if _writes(task) else 1.0

    def show(done: float, count: int) -> None:
        progress(at_once * done / count)

    def together() -> Mapping[str, "Sequence[Answer]"]:
        from matformer_lab.scoring.slice_scoring import score_slices

        if elsewhere is not None:
            return elsewhere.answers(show)
        encoder = make_lm(next(iter(models.values())), tokenizer, scorer="prefix")
        encoded = _encoded_once(task, requests, encoder)
        return score_slices(models, encoded, compiled=compiled, progress=show, journal=journal)

    if isinstance(task, AgreementTask):
        assert parent is not None, "agreement is with the parent"
        bos = check_bos(make_lm(next(iter(models.values())), tokenizer, scorer="prefix"))
        scored = score_agreement(models, parent(), bos, task, progress, journal)
        yield from (SliceScore(*each) for each in scored)
        return
    if isinstance(task, AnswersTask):
        yield from (SliceScore(*each) for each in score_answers(models, task, together))
        return
    if scorer == "prefix" and requests:
        known = together()
    spent = elsewhere.seconds if elsewhere is not None else time.perf_counter() - began
    shared = spent / len(models)
    not_finite: dict[str, NotFiniteError] = {}
    for number, (name, model) in enumerate(models.items()):
        began = time.perf_counter()

        def advance(done: float, count: float, before: int = number) -> None:
            start = at_once if known else 0.0
            progress(start + (1 - start) * (before + done / count) / len(models))

        arguments = (request.args for request in requests)
        answers = dict(zip(arguments, known[name], strict=True)) if known else None
        lm = make_lm(
            model,
            tokenizer,
            scorer=scorer,
            batch_size=batch_size,
            answers=answers,
            seed=seed,
            progress=advance,
        )
        try:
            result = score(lm, task)
        except NotFiniteError as error:
            not_finite[name] = error
            continue
        finally:
            advance(1, 1)
        yield SliceScore(name, result, shared + time.perf_counter() - began)
    if not_finite:
        raise NotFiniteScoresError(not_finite)


def prefix_requests(
    model: "Gemma3nForCausalLM",
    tokenizer: "PreTrainedTokenizerBase",
    task: LoadedTask,
    *,
    scorer: "Scorer",
) -> "list[Request]":
    """What `score_together` would have all slices score in one pass; none for another scorer.

    Args:
        model: Any of the slices.
        tokenizer: The parent's.
        task: The task, with its requests built.
        scorer: Who computes the log-likelihoods.

    Raises:
        InputError: As for `score_together`.
    """
    requests = _loglikelihoods(task)
    if isinstance(task, AgreementTask) or not requests:
        return []
    if scorer != "prefix" and not isinstance(task, AnswersTask):
        return []
    return _encoded_once(task, requests, make_lm(model, tokenizer, scorer="prefix"))


def _loglikelihoods(task: LoadedTask) -> list[Any]:
    return [each for each in task.requests if each.request_type == "loglikelihood"]


_latest_encoded: "dict[Any, list[Request]]" = {}


def _encoded_once(task: LoadedTask, requests: Sequence[Any], lm: Any) -> "list[Request]":
    """`requests` of `task`, encoded once for all passes and runs.

    Only the latest task's stay in memory, because a sweep goes through one task after the other.
    Two tasks are equal if their prompts are.
    """
    from matformer_lab.evaluation.request_cache import encoded_requests

    key = task, lm.tokenizer, lm.max_length
    if key not in _latest_encoded:
        _latest_encoded.clear()
        try:
            _latest_encoded[key] = encoded_requests(requests, lm)
        except ValueError as error:
            raise InputError(f"tasks: {task.name} cannot be scored: {error}") from None
    return _latest_encoded[key]


def score(lm: Any, task: LoadedTask) -> Score:
    """Score an lm-eval model on every request of `task`.

    Raises:
        NotFiniteError: When a log-probability, or a metric, is not a number.
    """
    from lm_eval.evaluator import evaluate

    with (
        quiet_lm_eval(),
        templates_compiled_once(sandboxed=task.sandboxed),
        requests_built(task),
        ExitStack() as stack,
    ):
        if _writes(task):
            stack.enter_context(finite_logits(lm.model, task.name))
        results = evaluate(
            lm=lm,
            task_dict=task.task_dict,
            limit=task.limit,
            samples=task.chosen,
            confirm_run_unsafe_code=task.runs_code,
        )
    found = Score(
        metrics=tuple(metric_rows(task, results)), items=tuple(item_records(task, results))
    )
    check_score(found, dtype=lm.model.dtype)
    return found
