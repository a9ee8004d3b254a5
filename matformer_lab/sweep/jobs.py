"""A recipe as jobs, one for each slice and task."""

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

from matformer_lab.common.errors import InputError
from matformer_lab.evaluation.agreement import AgreementTask, load_agreement
from matformer_lab.evaluation.answers import answers_task
from matformer_lab.evaluation.evaluate import is_packed, scorer_version
from matformer_lab.evaluation.tasks.loading import LoadedTask, load_tasks
from matformer_lab.evaluation.tasks.task_files import read_task_folders
from matformer_lab.evaluation.tokenizer import load_tokenizer
from matformer_lab.live.compute_dtype import ComputeDtype, compute_dtype, slow_on
from matformer_lab.live.devices import resolve_device
from matformer_lab.parent.opening import open_parent
from matformer_lab.parent.parent import Parent
from matformer_lab.slicing.notation.catalog import resolve_slices
from matformer_lab.slicing.plan import Plan, make_plan
from matformer_lab.slicing.sizes import SizedPlan, Sizes, sizes_of
from matformer_lab.slicing.slice import Slice
from matformer_lab.sweep.recipe import Recipe
from matformer_lab.sweep.scores.key import Key
from matformer_lab.sweep.scores.provenance import library_versions, tokenizer_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from matformer_lab.evaluation.tasks.prompts.conversations import Conversations


_REPAYS_COMPILING: Final = 1e17
"""Of characters of prompt times effective parameters: what takes an H100 a minute and a half for
one slice of E4B (measured without compiling: 1.1e15 a second)."""


@dataclass(frozen=True)
class Job:
    """One slice on one task, and the key that its score is stored under."""

    sized: SizedPlan
    task: LoadedTask
    key: Key

    @property
    def plan(self) -> Plan:
        return self.sized.plan

    @property
    def sizes(self) -> Sizes:
        return self.sized.sizes

    @property
    def slice(self) -> Slice:
        return self.sized.slice

    @property
    def name(self) -> str:
        """The slice's name."""
        return self.sized.name

    @property
    def cost(self) -> float:
        """Characters of prompt times effective parameters: proportional to the expected time."""
        return float(self.task.prompt_chars) * self.sized.sizes.effective


@dataclass(frozen=True)
class Prepared:
    """A recipe opened and checked: everything a sweep needs except the weights.

    Attributes:
        recipe: As the user wrote it.
        parent: Opened.
        sized: The recipe's slices, planned and measured.
        tasks: The recipe's tasks, loaded.
        tokenizer: The parent's.
        tokenizer_sha256: In hex.
        device: Where scores are computed, with `auto` resolved.
        dtype: What they are computed in, with `auto` resolved.
    """

    recipe: Recipe
    parent: Parent
    sized: tuple[SizedPlan, ...]
    tasks: tuple[LoadedTask, ...]
    tokenizer: "PreTrainedTokenizerBase"
    tokenizer_sha256: str
    device: str
    dtype: ComputeDtype

    @cached_property
    def jobs(self) -> tuple[Job, ...]:
        """All slices on the first task, then on the next, so that a whole frontier comes early."""
        return tuple(
            Job(sized, task, self._key(sized, task)) for task in self.tasks for sized in self.sized
        )

    def is_compiled(self, task: LoadedTask) -> bool:
        """Whether a task is scored by compiled layers, as far as that can be had.

        It depends on the parent and the task alone, not on the slices, so that a recipe with one
        more slice does not compute its other scores again.
        """
        asked = {request.request_type for request in task.requests}
        if (
            isinstance(task, AgreementTask)
            or "loglikelihood" not in asked
            or not is_packed(self.recipe.scorer, task)
        ):
            return False
        if self.recipe.compile != "auto":
            return self.recipe.compile == "on"
        work = task.prompt_chars * self._effective_params
        return self.device.startswith("cuda") and work >= _REPAYS_COMPILING

    @cached_property
    def _effective_params(self) -> int:
        whole = Slice("full", self.parent.text.intermediate_size)
        return sizes_of(make_plan(self.parent, whole)).effective

    def _key(self, sized: SizedPlan, task: LoadedTask) -> Key:
        recipe, parent, libraries = self.recipe, self.parent, library_versions()
        return Key(
            slice=sized.slice.digest,
            task=task.name,
            parent=f"{parent.name}@{parent.revision}" if parent.revision else parent.fingerprint,
            tokenizer=self.tokenizer_sha256,
            task_version=task.version,
            prompt_hash=task.prompt_hash,
            num_fewshot=task.num_fewshot,
            seed=recipe.seed,
            limit=recipe.limit,
            dtype=self.dtype.name,
            device=self.device.partition(":")[0],
            scorer=scorer_version(
                recipe.scorer, task, self.device, compiled=self.is_compiled(task)
            ),
            lm_eval=libraries["lm_eval"],
            torch=libraries["torch"],
            transformers=libraries["transformers"],
            turns=task.turns,
            gen_kwargs=task.gen_kwargs,
            task_files=task.files_digest,
        )


def prepare(recipe: Recipe, *, device: str | None = None) -> Prepared:
    """Open the parent, resolve the slices and load the tasks of a recipe. Writes nothing.

    Args:
        recipe: What to prepare.
        device: Where scores are computed; None: the recipe's, on this machine.

    Raises:
        InputError: When anything that the recipe names is missing or does not fit.
    """
    parent = open_parent(recipe.parent_ref)
    try:
        slices = resolve_slices(recipe.slices, parent, recipe.base)
    except InputError as error:
        raise InputError(f"{recipe.where}: {error}") from None
    sized = tuple(
        SizedPlan(plan, sizes_of(plan)) for plan in (make_plan(parent, s) for s in slices)
    )
    device = device or resolve_device(recipe.device)
    tokenizer = load_tokenizer(parent)
    tasks = recipe_tasks(recipe, parent, tokenizer)
    dtype = compute_dtype(recipe.dtype, parent.dtype, device)
    if cost := slow_on(dtype.name, device):
        warnings.warn(cost, stacklevel=2)
    _warn_of_unused_template(recipe, tokenizer, parent)  # last: what is refused gets one line
    return Prepared(
        recipe, parent, sized, tasks, tokenizer, tokenizer_hash(tokenizer), device, dtype
    )


def _warn_of_unused_template(
    recipe: Recipe, tokenizer: "PreTrainedTokenizerBase", parent: Parent
) -> None:
    """Tell of a parent whose chat template is not used, where the recipe does not say so."""
    said = "apply_chat_template" in recipe.model_fields_set
    if not said and tokenizer.chat_template:
        warnings.warn(
            f"{parent.ref} has a chat template and is scored without it; say which is meant, "
            "apply_chat_template: true or false",
            stacklevel=2,
        )


def _conversations(
    recipe: Recipe, parent: Parent, tokenizer: "PreTrainedTokenizerBase"
) -> "Conversations | None":
    """What writes the prompts, where the recipe asks for a chat template."""
    if not recipe.apply_chat_template:
        return None
    from matformer_lab.evaluation.tasks.prompts.conversations import conversations

    return conversations(recipe.prompting, tokenizer, parent.ref)


def recipe_tasks(
    recipe: Recipe, parent: Parent, tokenizer: "PreTrainedTokenizerBase"
) -> tuple[LoadedTask, ...]:
    """What a recipe's slices are scored on.

    Its tasks, and the agreement on a text where it asks for that. A calibration set is one task
    instead, of which a search wants no more than it maximises: the agreement, or else how sure a
    slice is of the right answers of all tasks.

    Raises:
        InputError: When a task or the text will not do.
    """
    agreement = () if recipe.agreement is None else (
        load_agreement(
            recipe.agreement,
            recipe.base,
            tokenizer,
            max_length=parent.text.max_position_embeddings,
            split=recipe.split,
        ),
    )  # fmt: skip
    calibrates = recipe.split is not None and recipe.split.part != "proof"
    if calibrates and agreement:
        return agreement
    tasks = load_tasks(
        recipe.tasks,
        limit=recipe.limit,
        seed=recipe.seed,
        datasets=recipe.datasets_folder,
        split=recipe.split,
        prompting=recipe.prompting,
        conversations=_conversations(recipe, parent, tokenizer),
        own=read_task_folders(recipe.task_folder_paths),
        trust_tasks=recipe.trust_tasks,
        confirm_run_unsafe_code=recipe.confirm_run_unsafe_code,
    )
    return (answers_task(tasks),) if calibrates else (*tasks, *agreement)
