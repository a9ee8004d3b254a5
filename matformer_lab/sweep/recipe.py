"""The recipe of a sweep: what a user writes in YAML, checked, and its JSON Schema for editors."""

import difflib
import json
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    StrictFloat,
    StrictInt,
    ValidationError,
    field_validator,
    model_validator,
)

from matformer_lab.common.errors import InputError
from matformer_lab.common.yaml_file import load_yaml
from matformer_lab.parent.parent import TINY
from matformer_lab.slicing.slices import SamplerSpec, SliceSpec

Scorer = Literal["prefix", "lm-eval"]
Dtype = Literal["float32", "bfloat16", "float16"]

# The published evaluation of the Mix-and-Match slices uses these three; few-shot counts and metrics
# are those usual for them (and for Google's own table).
USUAL_NUM_FEWSHOT: Mapping[str, int] = {"hellaswag": 10, "boolq": 0, "mmlu": 5}
USUAL_METRIC: Mapping[str, str] = {
    "hellaswag": "acc_norm",
    "tiny_hellaswag": "acc_norm",
    "boolq": "acc",
    "mmlu": "acc",
}


class TaskEntry(BaseModel):
    """One lm-eval task or group, by its registered name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(min_length=1, description="An lm-eval task or group name.")]
    num_fewshot: Annotated[
        Annotated[StrictInt, Field(ge=0)] | None,
        Field(description="Examples in the prompt. Left out: the usual count, else the task's."),
    ] = None
    metric: Annotated[
        str | None,
        Field(description="The metric to plot. Left out: the usual one, else the task's first."),
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, raw: Any) -> Any:
        """A bare string is a name; hellaswag, boolq and mmlu get their usual settings."""
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


class Recipe(BaseModel):
    """A sweep: which slices of which parent, scored on which tasks, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parent: Annotated[
        str,
        Field(min_length=1, description="A checkpoint folder, a Hub id (org/name@rev) or `tiny`."),
    ]
    slices: Annotated[
        tuple[str | dict[str, Any], ...],
        Field(
            json_schema_extra={"minItems": 1},
            description="Built-in names, `published`, slice files, `1/2`, inline slices, samplers.",
        ),
    ] = ("published",)
    tasks: Annotated[
        tuple[TaskEntry, ...],
        Field(
            json_schema_extra={"minItems": 1},
            description="lm-eval tasks: names, or {name, num_fewshot, metric}.",
        ),
    ] = tuple(TaskEntry.model_validate(name) for name in USUAL_NUM_FEWSHOT)
    datasets: Annotated[
        Path | None,
        Field(description="Folder laid out by dataset id (Rowan/hellaswag); null: the Hub."),
    ] = None
    dtype: Annotated[Dtype, Field(description="Weights and activations while scoring.")] = (
        "bfloat16"
    )
    device: Annotated[
        str,
        Field(
            pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto: the first GPU, else cpu."
        ),
    ] = "auto"
    batch_size: Annotated[
        Literal["auto"] | Annotated[StrictInt, Field(gt=0)],
        Field(description="Requests in one forward pass."),
    ] = "auto"
    limit: Annotated[
        Annotated[StrictInt, Field(gt=0)] | Annotated[StrictFloat, Field(gt=0)] | None,
        Field(description="As lm_eval --limit: items per task, or a fraction below 1; null: all."),
    ] = None
    seed: Annotated[StrictInt, Field(ge=0, lt=2**32, description="As lm_eval --seed.")] = 1234
    scorer: Annotated[
        Scorer,
        Field(description="prefix: shared work once (same scores, faster); lm-eval: its own HFLM."),
    ] = "prefix"
    as_run: Annotated[
        dict[str, Any] | None,
        Field(description="Written by `sweep` into a finished folder: versions and hashes."),
    ] = None

    _source: Path | None = PrivateAttr(default=None)

    @field_validator("slices", "tasks")
    @classmethod
    def _not_empty(cls, entries: tuple[Any, ...]) -> tuple[Any, ...]:
        if not entries:
            raise ValueError("is empty; leave the key out for the default, or list at least one")
        return entries

    @field_validator("tasks")
    @classmethod
    def _names_once(cls, tasks: tuple[TaskEntry, ...]) -> tuple[TaskEntry, ...]:
        names = [task.name for task in tasks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} is listed more than once")
        return tasks

    @field_validator("limit")
    @classmethod
    def _whole_or_fraction(cls, limit: float | None) -> float | None:
        if limit is not None and limit >= 1:
            if limit != int(limit):
                raise ValueError("is a whole number of items, or a fraction below 1")
            return int(limit)
        return limit

    @property
    def where(self) -> str:
        """Names the recipe in an error."""
        return str(self._source or "recipe")

    @property
    def base(self) -> Path:
        """The folder that relative file names in the recipe start from: the recipe's own."""
        return self._source.parent if self._source else Path()

    @property
    def parent_ref(self) -> str:
        """`parent` for `open_parent`: a folder beside the recipe wins over one of the caller's."""
        beside = self.base / self.parent
        return str(beside) if self.parent != TINY and beside.is_dir() else self.parent

    @property
    def datasets_folder(self) -> Path | None:
        """`datasets`, resolved against the recipe's folder."""
        return None if self.datasets is None else (self.base / self.datasets).resolve()


def load_recipe(path: Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe file; `overrides` (from the command line) replace its top-level keys.

    Raises `InputError` naming the file and the key, with the nearest known key for an unknown one.
    A relative path among the overrides starts from the working directory, as a user expects.
    """
    written = load_yaml(path)
    if not isinstance(written, dict) or not all(isinstance(key, str) for key in written):
        raise InputError(f"{path}: a recipe is a mapping of keys (parent, slices, tasks, ...)")
    return parse_recipe({**written, **_absolute_paths(overrides or {})}, source=path)


def parse_recipe(values: Mapping[str, Any], *, source: Path | None = None) -> Recipe:
    """A recipe from plain values, as YAML gives them; `source` is the file they come from."""
    try:
        recipe = Recipe.model_validate(dict(values))
    except ValidationError as error:
        problems = _problems(error)
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InputError(f"{source or 'recipe'}: {problems[0]}{more}") from None
    recipe._source = source
    return recipe


def recipe_schema() -> str:
    """The JSON Schema of a recipe, as committed in recipes/recipe.schema.json."""
    schema = Recipe.model_json_schema()
    schema["title"] = "matformer-lab sweep recipe"
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    properties, definitions = schema["properties"], schema["$defs"]
    # What the models take beyond their fields: a task as a bare name, a slice written out.
    properties["tasks"]["items"] = {"anyOf": [{"type": "string"}, properties["tasks"]["items"]]}
    written_out = []
    for model in (SliceSpec, SamplerSpec):
        part = model.model_json_schema(ref_template="#/$defs/{model}")
        definitions |= part.pop("$defs", {})
        definitions[model.__name__] = part
        written_out.append({"$ref": f"#/$defs/{model.__name__}"})
    properties["slices"]["items"] = {"anyOf": [{"type": "string"}, *written_out]}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _absolute_paths(overrides: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: str(value.absolute()) if isinstance(value, Path) else value
        for key, value in overrides.items()
    }


def _problems(error: ValidationError) -> list[str]:
    """One line for each key that is wrong, unknown keys first: they often explain the rest."""
    unknown: list[str] = []
    missing: list[str] = []
    wrong: dict[str, list[str]] = {}  # several for a union: one from each branch
    shown: dict[str, str] = {}
    for item in error.errors():
        location = [part for part in item["loc"] if not _is_union_branch(part)]
        key = _dotted(location)
        if item["type"] == "extra_forbidden":
            model = TaskEntry if location[0] == "tasks" else Recipe
            nearest = _nearest(str(location[-1]), list(model.model_fields))
            unknown.append(f"unknown key {key!r}; the nearest known key is {nearest!r}")
        elif item["type"] == "missing":
            missing.append(f"key {key!r} is missing")
        else:
            message = item["msg"].removeprefix("Value error, ").removeprefix("Input ")
            if message not in wrong.setdefault(key, []):
                wrong[key].append(message)
            shown[key] = reprlib.repr(item["input"])
    return (
        unknown
        + missing
        + [f"{key}: {' or '.join(wrong[key])} (got {shown[key]})" for key in wrong]
    )


def _is_union_branch(part: int | str) -> bool:
    """pydantic puts the tried branch of a union (`int`, `literal['auto']`) into the location."""
    return isinstance(part, str) and (
        part in ("str", "none") or part.startswith(("literal[", "dict[", "constrained-"))
    )


def _dotted(location: list[int | str]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _nearest(word: str, known: list[str]) -> str:
    return max(known, key=lambda name: difflib.SequenceMatcher(None, word.lower(), name).ratio())


if __name__ == "__main__":
    print(recipe_schema(), end="")
