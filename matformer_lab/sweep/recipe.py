"""The recipe of a sweep: what a user writes in YAML, checked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
    field_validator,
    model_validator,
)

from matformer_lab.common.errors import InputError
from matformer_lab.common.files.strict_yaml import load_yaml
from matformer_lab.common.paths import StrPath, resolved
from matformer_lab.common.shipped import shipped_folder
from matformer_lab.common.validation import explain
from matformer_lab.evaluation.agreement import AGREEMENT, AgreementText
from matformer_lab.evaluation.tasks.entry import (
    USUAL_NUM_FEWSHOT,
    GenKwargs,
    Scorer,
    TaskEntry,
)
from matformer_lab.evaluation.tasks.prompts.prompting import Prompting
from matformer_lab.evaluation.tasks.split import Split
from matformer_lab.parent.opening import TINY
from matformer_lab.parent.references import is_folder
from matformer_lab.slicing.notation.width import FEWEST_UNITS
from matformer_lab.statistics.study import AVERAGE
from matformer_lab.sweep.search_block import SearchBlock

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Compile = Literal["auto", "on", "off"]


class Recipe(BaseModel):
    """A sweep: which slices of which parent, scored on which tasks, and how.

    Examples:
        >>> import matformer_lab as ml
        >>> recipe = ml.load_recipe("demo")
        >>> recipe.parent, recipe.dtype
        ('tiny', 'float32')
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    parent: Annotated[
        str,
        Field(min_length=1, description="A checkpoint folder, a Hub id (org/name@rev) or `tiny`."),
    ]
    slices: Annotated[
        tuple[
            str
            | Annotated[int, Field(strict=True, ge=FEWEST_UNITS)]
            | Annotated[float, Field(strict=True, gt=0, lt=1)]
            | dict[str, Any],
            ...,
        ],
        Field(
            json_schema_extra={"minItems": 1},
            description="Built-in names, `published`, slice files, widths (`1/2`), inline slices, "
            "samplers.",
        ),
    ] = ("published",)
    tasks: Annotated[
        tuple[TaskEntry, ...],
        Field(
            json_schema_extra={"minItems": 1},
            description="lm-eval tasks: names, or {name, alias, num_fewshot, metric, gen_kwargs}.",
        ),
    ] = tuple(TaskEntry.model_validate(name) for name in USUAL_NUM_FEWSHOT)
    datasets: Annotated[
        Path | None,
        Field(description="Folder laid out by dataset id (Rowan/hellaswag); null: the Hub."),
    ] = None
    apply_chat_template: Annotated[
        StrictBool | Annotated[StrictStr, Field(min_length=1)],
        Field(description="As lm_eval --apply_chat_template: false, true, or a template's name."),
    ] = False
    system_instruction: Annotated[
        Annotated[StrictStr, Field(min_length=1)] | None,
        Field(description="As lm_eval --system_instruction: a text before every prompt."),
    ] = None
    fewshot_as_multiturn: Annotated[
        StrictBool | None,
        Field(
            description="As lm_eval --fewshot_as_multiturn: each example as a turn of its own; "
            "null: with a chat template."
        ),
    ] = None
    gen_kwargs: Annotated[
        GenKwargs | None,
        Field(description="As lm_eval --gen_kwargs: {temperature: 0.7, do_sample: true}."),
    ] = None
    task_folders: Annotated[
        tuple[Path, ...],
        Field(description="As lm_eval --include_path: folders with task files of one's own."),
    ] = ()
    trust_tasks: Annotated[
        StrictBool, Field(description="Let the files of `task_folders` run their own code.")
    ] = False
    confirm_run_unsafe_code: Annotated[
        StrictBool,
        Field(description="As lm_eval --confirm_run_unsafe_code: run code that the model writes."),
    ] = False
    dtype: Annotated[
        Dtype,
        Field(description="To compute in; auto: as stored, or float32 on a CPU without it."),
    ] = "auto"
    device: Annotated[
        str,
        Field(
            pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto: the first GPU, else cpu."
        ),
    ] = "auto"
    compile: Annotated[
        Compile,
        Field(description="Layers by torch.compile; auto: on CUDA, where the work repays it."),
    ] = "auto"
    batch_size: Annotated[
        Literal["auto"] | Annotated[StrictInt, Field(gt=0, lt=2**31)],
        Field(description="Requests in one forward pass."),
    ] = "auto"
    limit: Annotated[
        Annotated[StrictInt, Field(gt=0, lt=2**31)]
        | Annotated[StrictFloat, Field(gt=0, lt=2**31, allow_inf_nan=False)]
        | None,
        Field(description="As lm_eval --limit: items per task, or a fraction below 1; null: all."),
    ] = None
    seed: Annotated[StrictInt, Field(ge=0, lt=2**32, description="As lm_eval --seed.")] = 1234
    scorer: Annotated[
        Scorer,
        Field(description="prefix: shared work once (same scores, faster); lm-eval: its own HFLM."),
    ] = "prefix"
    agreement: Annotated[
        AgreementText | None,
        Field(description="Also score how well slices agree with the parent on a text."),
    ] = None
    split: Annotated[
        Split | None,
        Field(description="Score one part of the items; `search` writes it for its proof."),
    ] = None
    search: Annotated[
        SearchBlock | None,
        Field(description="What `matformer-lab search` looks for; a sweep ignores it."),
    ] = None
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
        names = [task.label for task in tasks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if AGREEMENT in names:
            raise ValueError(f"{AGREEMENT} is a key beside tasks ({AGREEMENT}: {{text: FILE}})")
        if twice:
            raise ValueError(
                f"{', '.join(twice)} is listed more than once; give one of them another `alias`"
            )
        if AVERAGE in names:
            raise ValueError(
                f"{AVERAGE} is what the results call the average of all tasks; give that task "
                "another `alias`"
            )
        as_files = [name.casefold() for name in names]
        if same := [name for name in names if as_files.count(name.casefold()) > 1]:
            raise ValueError(
                f"{' and '.join(same)} would be one file where case does not count; give one of "
                "them another `alias`"
            )
        return tasks

    @field_validator("task_folders", mode="before")
    @classmethod
    def _name_folders(cls, folders: Any) -> Any:
        if isinstance(folders, list | tuple) and "" in folders:
            raise ValueError('an empty path; write "." for the folder of the recipe')
        return folders

    @field_validator("limit")
    @classmethod
    def _whole_or_fraction(cls, limit: float | None) -> float | None:
        if limit is not None and limit >= 1:
            if limit != int(limit):
                raise ValueError("is a whole number of items, or a fraction below 1")
            return int(limit)
        return limit

    @model_validator(mode="after")
    def _one_choice_of_items(self) -> Self:
        if self.limit is not None and (self.split is not None or self.search is not None):
            raise ValueError(
                "limit does not go with search or split; set search.calibration.items and "
                "search.proof"
            )
        return self

    @model_validator(mode="after")
    def _turns_need_a_template(self) -> Self:
        if self.fewshot_as_multiturn and not self.apply_chat_template:
            raise ValueError(
                "fewshot_as_multiturn needs apply_chat_template: without a chat template there are "
                "no turns"
            )
        return self

    @property
    def where(self) -> str:
        """How errors name the recipe: its file, if it has one."""
        return str(self._source or "recipe")

    @property
    def name(self) -> str:
        """The recipe file's name without its ending."""
        return self._source.stem if self._source else "recipe"

    @property
    def base(self) -> Path:
        """The folder that relative paths in the recipe start from: the one of its file."""
        return self._source.parent if self._source else Path()

    @property
    def parent_ref(self) -> str:
        """`parent` for `open_parent`: a folder beside the recipe comes before all else."""
        beside = self.base / self.parent
        return str(beside) if self.parent != TINY and is_folder(beside) else self.parent

    @property
    def datasets_folder(self) -> Path | None:
        """`datasets`, resolved against the recipe's folder."""
        return None if self.datasets is None else resolved(self.base / self.datasets)

    @property
    def task_folder_paths(self) -> tuple[Path, ...]:
        """`task_folders`, resolved against the recipe's folder."""
        return tuple(resolved(self.base / folder) for folder in self.task_folders)

    @property
    def prompting(self) -> Prompting:
        """How prompts are made."""
        return Prompting(
            apply_chat_template=self.apply_chat_template,
            system_instruction=self.system_instruction,
            fewshot_as_multiturn=self.fewshot_as_multiturn,
            gen_kwargs=dict(self.gen_kwargs or {}),
        )


def load_recipe(path: StrPath, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe file.

    Args:
        path: A YAML file, or the name of a shipped recipe: demo, published-slices, e4b-laptop,
            model-card-pt, model-card-it, search-demo, search-e4b, smoke-real-data.
        overrides: Values that replace its top-level keys. A relative `Path` among them starts from
            the working directory, as a user expects.

    Raises:
        InputError: When the file is missing or not a recipe. Names the file and the key, and for an
            unknown key the nearest known one.

    Examples:
        >>> import matformer_lab as ml
        >>> ml.load_recipe("demo", {"limit": 10}).limit
        10
    """
    path = _file_of(path)
    written = read_recipe_file(path)
    return parse_recipe({**written, **_absolute_paths(overrides or {})}, source=path)


def read_recipe_file(path: StrPath) -> dict[str, Any]:
    """The keys and values of a recipe file, unchecked.

    Args:
        path: As for `load_recipe`.

    Raises:
        InputError: When the file is missing or not a mapping.
    """
    path = _file_of(path)
    written = load_yaml(path)
    if not isinstance(written, dict) or not all(isinstance(key, str) for key in written):
        raise InputError(f"{path}: a recipe is a mapping of keys (parent, slices, tasks, ...)")
    return written


def parse_recipe(values: Mapping[str, Any], *, source: StrPath | None = None) -> Recipe:
    """A recipe from plain values, as YAML gives them.

    Args:
        values: Keys and values of a recipe.
        source: The file they come from; relative paths in them start from its folder. None: from
            the working directory.

    Raises:
        InputError: As for `load_recipe`.

    Examples:
        >>> import matformer_lab as ml
        >>> ml.parse_recipe({"parent": "tiny", "tasks": ["boolq"]}).tasks[0].metric
        'acc'
    """
    try:
        recipe = Recipe.model_validate(dict(values))
    except ValidationError as error:
        raise InputError(f"{source or 'recipe'}: {explain(error, Recipe)}") from None
    recipe._source = None if source is None else Path(source)
    return recipe


def _file_of(path: StrPath) -> Path:
    """The recipe file; a bare name without a file here may be that of a shipped recipe."""
    given = Path(path)
    shipped = shipped_folder("recipes") / f"{given}.yaml"
    return (
        shipped if not given.exists() and given.name == str(given) and shipped.exists() else given
    )


def _absolute_paths(overrides: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: str(value.absolute()) if isinstance(value, Path) else value
        for key, value in overrides.items()
    }
