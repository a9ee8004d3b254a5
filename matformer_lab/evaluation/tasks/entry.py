"""A task as a recipe names it."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, field_validator, model_validator

Scorer = Literal["prefix", "lm-eval"]

# The three tasks of the published evaluation of the Mix-and-Match slices, with the few-shot counts
# and metrics that are usual for them (and used in Google's own table).
USUAL_NUM_FEWSHOT: Mapping[str, int] = {"hellaswag": 10, "boolq": 0, "mmlu": 5}

USUAL_METRIC: Mapping[str, str] = {
    "hellaswag": "acc_norm",
    "tiny_hellaswag": "acc_norm",
    "boolq": "acc",
    "mmlu": "acc",
}


GenKwargs = dict[str, Any]
"""Arguments of generation by name, as `lm_eval --gen_kwargs` takes them."""


_ALIAS: Final = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$")
"""Names of files in the results' folders."""


class TaskEntry(BaseModel):
    """One lm-eval task or group, by its registered name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(min_length=1, description="An lm-eval task or group name.")]
    alias: Annotated[
        str | None,
        Field(
            json_schema_extra={"pattern": _ALIAS.pattern},
            description="Its name in the results: one task in two settings, say.",
        ),
    ] = None
    num_fewshot: Annotated[
        Annotated[StrictInt, Field(ge=0, lt=2**31)] | None,
        Field(description="Examples in the prompt. Left out: the usual count, else the task's."),
    ] = None
    metric: Annotated[
        str | None,
        Field(description="The metric to plot. Left out: the usual one, else the task's first."),
    ] = None
    gen_kwargs: Annotated[
        GenKwargs | None,
        Field(description="As lm_eval --gen_kwargs, for this task; over the recipe's."),
    ] = None

    @field_validator("alias")
    @classmethod
    def _is_a_label(cls, alias: str | None) -> str | None:
        if alias is not None and not _ALIAS.fullmatch(alias):
            raise ValueError(
                "holds a-z, A-Z, digits and . _ + - only, and begins with a letter or digit"
            )
        return alias

    @property
    def label(self) -> str:
        """What the task is called in the results: its alias, else its name."""
        return self.alias or self.name

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, raw: Any) -> Any:
        """Accept a bare name, and fill in the usual settings of hellaswag, boolq and mmlu."""
        if isinstance(raw, str):
            raw = {"name": raw}
        if not isinstance(raw, Mapping):
            return raw
        name = raw.get("name")
        filled = {key: value for key, value in raw.items() if value is not None}
        if isinstance(name, str):
            if name in USUAL_NUM_FEWSHOT:
                filled.setdefault("num_fewshot", USUAL_NUM_FEWSHOT[name])
            if name in USUAL_METRIC:
                filled.setdefault("metric", USUAL_METRIC[name])
        return filled
