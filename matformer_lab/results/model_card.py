"""The scores on Gemma 3n's model card: published by Google, never measured here."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from matformer_lab.common.errors import InputError
from matformer_lab.common.files.strict_yaml import load_yaml
from matformer_lab.common.shipped import shipped_folder
from matformer_lab.common.validation import explain

Variant = Literal["PT", "IT"]
"""Of the pre-trained models, or of the instruction-tuned ones."""

_Percent = Annotated[float, Field(ge=0, le=100)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CardTask(_Model):
    """How lm-eval measures a benchmark of the card: a task entry of a recipe."""

    name: str
    num_fewshot: Annotated[int, Field(ge=0)]
    metric: str


class CardScores(_Model):
    """The card's scores of the two published models, in percent."""

    e2b: _Percent
    e4b: _Percent


class Benchmark(_Model):
    """One row of the card.

    Attributes:
        name: As the card writes it.
        variant: Whose scores they are.
        metric: As the card writes it.
        num_fewshot: As the card writes it: a count, or `few`.
        published: The scores.
        task: What measures it; None where nothing does.
        missing: Why nothing does; None where something does.
    """

    name: str
    variant: Variant
    metric: str
    num_fewshot: Annotated[int, Field(ge=0)] | Literal["few"]
    published: CardScores
    task: CardTask | None = None
    missing: str | None = None

    @model_validator(mode="after")
    def _task_or_reason(self) -> Self:
        if (self.task is None) == (self.missing is None):
            raise ValueError("has either a task or a reason why it is missing")
        return self

    def measured_by(self, task: str, metric: str, num_fewshot: int | None) -> bool:
        """Whether a score on `task` is one of this benchmark, in the card's shots and metric."""
        return self.task is not None and (
            (task, metric, num_fewshot) == (self.task.name, self.task.metric, self.task.num_fewshot)
        )


class ModelCard(_Model):
    """The card: its benchmarks in its order, and the parents that it is about, by name."""

    parents: dict[str, Variant]
    benchmarks: tuple[Benchmark, ...]


@cache
def model_card() -> ModelCard:
    """The card, from `configs/model_card.yaml`.

    Raises:
        InputError: When the file is damaged; names the key.
    """
    path = shipped_folder("configs") / "model_card.yaml"
    try:
        return ModelCard.model_validate(load_yaml(path))
    except ValidationError as error:
        raise InputError(f"{path}: {explain(error, ModelCard)}") from None


def benchmark_table(card: ModelCard) -> str:
    """The card's benchmarks that lm-eval has, in Markdown: how they are measured here.

    A test runs each of them and compares with lm-eval (`tests/evaluation/test_model_card.py`).
    """
    head = ("benchmark", "scores of", "task", "shots", "metric", "E2B", "E4B", "equal to lm-eval")
    rows = [
        (
            one.name,
            one.variant,
            f"`{one.task.name}`",
            str(one.task.num_fewshot),
            f"`{one.task.metric}`",
            f"{one.published.e2b:.1f}",
            f"{one.published.e4b:.1f}",
            "yes",
        )
        for one in card.benchmarks
        if one.task is not None
    ]
    return _markdown(head, rows)


def missing_table(card: ModelCard) -> str:
    """The card's other benchmarks, in Markdown: why each is not measured here."""
    rows = [
        (one.name, one.metric, f"{one.published.e2b:.1f}", f"{one.published.e4b:g}", one.missing)
        for one in card.benchmarks
        if one.missing is not None
    ]
    return _markdown(("benchmark", "metric", "E2B", "E4B", "why it is not there"), rows)


def _markdown(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":  # what docs/guides/model-card.md has
    print(benchmark_table(model_card()))
    print(missing_table(model_card()))
