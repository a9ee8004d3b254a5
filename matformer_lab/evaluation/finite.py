"""Refuses log-probabilities that are NaN, of which lm-eval makes a plausible accuracy."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from matformer_lab.common.errors import InputError
from matformer_lab.evaluation.score import Score

if TYPE_CHECKING:
    from transformers import Gemma3nForCausalLM


class NotFiniteError(InputError):
    """A model gave a log-probability that is NaN or infinite."""


class NotFiniteScoresError(NotFiniteError):
    """What was found of several models that were scored together.

    Attributes:
        by_model: The error of each model at fault, by its name.
    """

    def __init__(self, by_model: Mapping[str, NotFiniteError]) -> None:
        super().__init__("; ".join(f"{name}: {error}" for name, error in by_model.items()))
        self.by_model = by_model


def check_finite(value: float, *, task: str, item: object, dtype: object) -> None:
    """Check one log-probability.

    Args:
        value: Of an answer. The logits are capped, so that a right one is never infinite.
        task: The task's name, for the error.
        item: The item's number, for the error.
        dtype: The model's.

    Raises:
        NotFiniteError: When it is NaN or infinite.
    """
    if not math.isfinite(value):
        raise NotFiniteError(
            f"{task}, item {item}: the log-probability of an answer is {value} in "
            f"{_name(dtype)}, so there is no score; {_remedy(dtype)}"
        )


def not_finite_text(*, task: str, item: object, dtype: object) -> NotFiniteError:
    """The error for a text whose next token has logits that are not finite."""
    return NotFiniteError(
        f"{task}, item {item}: the logits of a generated token are not finite in {_name(dtype)}, "
        f"so there is no score; {_remedy(dtype)}"
    )


def check_score(score: Score, *, dtype: object) -> None:
    """Check every log-probability of a score, and its metrics.

    Args:
        score: What lm-eval made of the answers.
        dtype: The model's.

    Raises:
        NotFiniteError: Naming the first item at fault.
    """
    for item in score.items:
        for value in item.get("logprobs") or ():
            check_finite(value, task=item["subtask"], item=item["doc_id"], dtype=dtype)
    for metric in score.metrics:
        if math.isnan(metric.value):
            raise NotFiniteError(
                f"{metric.task}: {metric.metric} is nan over its {metric.n} items in "
                f"{_name(dtype)}, so there is no score; {_remedy(dtype)}"
            )


@contextmanager
def finite_logits(model: "Gemma3nForCausalLM", task: str) -> Iterator[None]:
    """Check what a model generates from, token by token, while the `with` block runs.

    Args:
        model: A live slice.
        task: The task's name, for the error.

    Raises:
        NotFiniteError: When the logits of a next token are not finite.
    """

    def check(_module: Any, _inputs: Any, output: Any) -> None:
        if not bool(output.logits[:, -1].isfinite().all()):
            raise NotFiniteError(
                f"{task}: the logits of a generated token are not finite in "
                f"{_name(model.dtype)}, so there is no score; {_remedy(model.dtype)}"
            )

    handle = model.register_forward_hook(check)
    try:
        yield
    finally:
        handle.remove()


def _name(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")


def _remedy(dtype: object) -> str:
    if _name(dtype) == "float16":
        return "Gemma 3n overflows in float16: use bfloat16"
    return "check the weights that this slice has, or leave it out"
