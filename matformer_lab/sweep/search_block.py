"""The `search` block of a recipe: what `matformer-lab search` looks for, and how long."""

from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    model_validator,
)

from matformer_lab.slicing.notation.spec import Layers
from matformer_lab.slicing.notation.width import OneWidth, Width

LIMITS: Final = ("max_params", "max_bytes", "max_accelerator_bytes", "max_flops")

Written = Annotated[StrictInt | str, Field(union_mode="left_to_right")]
Positive = Annotated[StrictInt, Field(gt=0, lt=2**31)]


def _number_as_text(value: object) -> object:
    """YAML reads `3.0` as a number: keep it as written for the error or the parser."""
    return str(value) if isinstance(value, float) else value


Amount = Annotated[Written, BeforeValidator(_number_as_text)]


class BudgetEntry(BaseModel):
    """What a slice may take: one limit, or several that all hold."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_params: Annotated[Amount | None, Field(description="Effective parameters: 3.0B.")] = None
    max_bytes: Annotated[Amount | None, Field(description="Of the checkpoint: 3GB.")] = None
    max_accelerator_bytes: Annotated[
        Amount | None,
        Field(description="Weights on the accelerator, and K/V of `context` tokens: 4GB."),
    ] = None
    max_flops: Annotated[Amount | None, Field(description="Operations a token: 4.5G.")] = None
    context: Annotated[Positive, Field(description="Tokens in the K/V cache.")] = 4096
    text_only: Annotated[
        StrictBool, Field(description="Count the bytes of the text-only checkpoint.")
    ] = False

    @model_validator(mode="after")
    def _has_a_limit(self) -> Self:
        if all(getattr(self, name) is None for name in LIMITS):
            raise ValueError(f"a budget needs one of {', '.join(LIMITS)}")
        return self


class Calibration(BaseModel):
    """What candidates are scored on while the search runs: items of the tasks, or a text.

    With a text, slices are scored by how well they agree with the parent on it, and the tasks only
    prove the result.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    items: Annotated[Positive, Field(description="Items of each task; the proof uses others.")] = (
        100
    )
    text: Annotated[
        Path | None, Field(description="A UTF-8 text file; `tiny`: the embedded parent's.")
    ] = None
    tokens: Annotated[Positive, Field(description="Its first so many tokens count.")] = 65_536


class SearchBlock(BaseModel):
    """A search: budgets, what slices may look like, and how much may be measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    budgets: Annotated[
        tuple[BudgetEntry, ...], Field(description="One slice is found for each.")
    ] = ()
    widths: Annotated[
        tuple[OneWidth, ...], Field(min_length=1, description="FFN widths to choose from.")
    ] = tuple(Width.parse(width) for width in ("1/8", "1/4", "1/2", "full"))
    skip: Annotated[
        Literal["none", "any"] | tuple[Layers, ...],
        Field(description="Layers to skip: none, any, or the sets to choose from ([[], 20-24])."),
    ] = "any"
    runtimes: Annotated[
        tuple[str, ...], Field(description="Runtimes that must load the result: llama.cpp.")
    ] = ()
    nested: Annotated[
        StrictBool, Field(description="Every smaller result lies within the larger ones.")
    ] = False
    evaluations: Annotated[Positive, Field(description="Most slices to score in the search.")] = 400
    minutes: Annotated[
        StrictInt | StrictFloat | None, Field(gt=0, description="Stop searching after so long.")
    ] = None
    calibration: Calibration = Calibration()
    proof: Annotated[Positive, Field(description="Most items of each task for the proof.")] = 1000
    random: Annotated[
        StrictInt, Field(ge=0, le=1000, description="Random slices a budget, for comparison.")
    ] = 2
    seed: Annotated[StrictInt, Field(ge=0, lt=2**32, description="Of the split.")] = 0
