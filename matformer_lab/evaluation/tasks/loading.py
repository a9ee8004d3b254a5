"""Loads lm-eval tasks once for a whole sweep: names checked, datasets mapped, requests built.

The tasks are lm-eval's own, unmodified. Two things are added: datasets can be read from local
folders, and the requests (prompts with their few-shot examples) are built once and hashed, so that
every slice is scored on the same bytes and a stored score says which bytes those were.
"""

import hashlib
import json
import random
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from matformer_lab import tiny
from matformer_lab.common.errors import InputError, one_line
from matformer_lab.evaluation.quiet import quiet_lm_eval, templates_compiled_once
from matformer_lab.evaluation.tasks.data_check import check_data, column_of, missing_column
from matformer_lab.evaluation.tasks.datasets import mapped_datasets
from matformer_lab.evaluation.tasks.entry import TaskEntry
from matformer_lab.evaluation.tasks.known_names import known_names
from matformer_lab.evaluation.tasks.metric import plotted_metric
from matformer_lab.evaluation.tasks.metric_scripts import metric_scripts
from matformer_lab.evaluation.tasks.names import (
    check_loaded,
    check_name,
    check_names,
    indexed,
    task_manager,
)
from matformer_lab.evaluation.tasks.prompts.fewshot import (
    check_fewshot,
    override_note,
    set_num_fewshot,
)
from matformer_lab.evaluation.tasks.prompts.gen_kwargs import check_gen_kwargs, set_gen_kwargs
from matformer_lab.evaluation.tasks.prompts.prompt_hash import hash_of_prompts
from matformer_lab.evaluation.tasks.prompts.prompting import Prompting
from matformer_lab.evaluation.tasks.split import Split, split_items
from matformer_lab.evaluation.tasks.task_files import TaskFolders, check_names_are_new
from matformer_lab.evaluation.tasks.trust import check_trust
from matformer_lab.parent.references import is_folder

if TYPE_CHECKING:
    from matformer_lab.evaluation.tasks.prompts.conversations import Conversations

_CODE_EVAL: Final = "HF_ALLOW_CODE_EVAL"
"""What `code_eval` of `evaluate` looks for in the environment."""
_PLAIN: Final = Prompting()
_NO_FOLDERS: Final = TaskFolders()


@dataclass(frozen=True)
class LoadedTask:
    """A task or group of the recipe with its requests built, ready for any number of models.

    Attributes:
        name: As in the results: the recipe's alias, else lm-eval's name.
        metric: The metric to plot, one of those the task reports.
        num_fewshot: Examples in the prompt, as used; None where the tasks of a group differ.
        num_fewshot_asked: As the recipe asks, where the file of a task overrides that; else None.
        limit: As `lm_eval --limit`: items for each task, or a fraction below 1; None for all.
        version: lm-eval's version of the task (of the group, for a group).
        prompt_hash: sha256 (hex) over every request, document and setting that enters the score.
        datasets: Dataset ids.
        items: How many items are scored, over all tasks of a group.
        prompt_chars: Characters over all requests, which the time estimate scales with.
        task_dict: lm-eval's `TaskDict`: {tasks: {name: Task}, groups: {name: Group}, group_map}.
        chosen: The places of the items that are scored, by leaf task; None: all up to `limit`.
        turns: How the prompts are made, where they are not plain text (`Prompting.turns`).
        gen_kwargs: In JSON, the arguments of generation that the recipe sets; None where it sets
            none, or the task does not generate.
        files: sha256 (hex) of the recipe's own task files, and code, that the task is made of.
        runs_code: Whether the code that the model writes may run.
        sandboxed: Whether its templates may not reach for Python's internals.
    """

    name: str
    metric: str
    num_fewshot: int | None
    num_fewshot_asked: int | None
    limit: float | None
    version: str
    prompt_hash: str
    datasets: tuple[str, ...]
    items: int
    prompt_chars: int
    task_dict: Mapping[str, Any] = field(repr=False, compare=False)
    chosen: Mapping[str, list[int]] | None = field(default=None, repr=False, compare=False)
    turns: str | None = None
    gen_kwargs: str | None = None
    files: tuple[tuple[str, str], ...] = ()
    runs_code: bool = False
    sandboxed: bool = False

    @property
    def files_digest(self) -> str | None:
        """sha256 (hex) over `files`; None where there are none."""
        if not self.files:
            return None
        return hashlib.sha256(json.dumps(self.files).encode()).hexdigest()

    @property
    def subtasks(self) -> Mapping[str, Any]:
        """The leaf tasks by name; the task itself where it is not a group."""
        tasks: Mapping[str, Any] = self.task_dict["tasks"]
        return tasks

    @property
    def requests(self) -> list[Any]:
        """Every lm-eval `Instance`, in the order lm-eval scores them."""
        return [request for task in self.subtasks.values() for request in task.instances]


def load_tasks(
    entries: Sequence[TaskEntry],
    *,
    limit: float | None,
    seed: int,
    datasets: Path | None,
    split: Split | None = None,
    prompting: Prompting = _PLAIN,
    conversations: "Conversations | None" = None,
    own: TaskFolders = _NO_FOLDERS,
    trust_tasks: bool = False,
    confirm_run_unsafe_code: bool = False,
) -> tuple[LoadedTask, ...]:
    """Load the tasks and build their requests as `lm_eval --seed SEED --limit LIMIT` would.

    Args:
        entries: The tasks of a recipe.
        limit: Items for each task, or a fraction below 1; None for all.
        seed: Of the few-shot examples, and of whatever else a task draws.
        datasets: A folder laid out by dataset id; None reads datasets from the Hub. The tasks
            shipped with the package always read their own data.
        split: Which part of the items to load; None: all of them.
        prompting: How prompts are made.
        conversations: What writes them, where they are turns of a conversation.
        own: Tasks of the recipe's own folders.
        trust_tasks: Whether code that comes with these may run.
        confirm_run_unsafe_code: Whether code that the model writes may run.

    Raises:
        InputError: For an unknown task, a task that cannot be scored, a metric the task does not
            have, too few examples for the prompts, a dataset that is not there, arguments of
            generation that are unknown, or code that the recipe does not allow.
    """
    if datasets is not None and not is_folder(datasets):
        raise InputError(f"`datasets` is {datasets}: no such folder")
    names = [entry.name for entry in entries]
    check_names(names, own)
    manager = task_manager(names, own)
    if own.files and known_names() is None:
        check_names_are_new(own, frozenset(indexed(None).all_tasks))
    check_gen_kwargs(prompting.gen_kwargs, "gen_kwargs")
    for entry in entries:
        check_gen_kwargs(entry.gen_kwargs or {}, f"tasks: {entry.label}: gen_kwargs")
        check_name(entry.name, manager, runs_code=confirm_run_unsafe_code)
        check_trust(entry.label, entry.name, own, trusted=trust_tasks)
    settings = _Settings(limit, seed, split, prompting, conversations, own, confirm_run_unsafe_code)
    loaded = []
    for entry in entries:
        sandboxed = not trust_tasks and bool(own.used_by([entry.name]))
        with (
            quiet_lm_eval(),
            templates_compiled_once(sandboxed=sandboxed),
            mapped_datasets(datasets, tiny.datasets_dir()),
        ):
            task, notes = _load(manager, entry, settings)
        loaded.append(replace(task, sandboxed=sandboxed))
        for note in notes:
            warnings.warn(note, stacklevel=1)
    return tuple(loaded)


@dataclass(frozen=True)
class _Settings:
    """What is the same for all tasks of a recipe, as `load_tasks` takes it."""

    limit: float | None
    seed: int
    split: Split | None
    prompting: Prompting
    conversations: "Conversations | None"
    own: TaskFolders
    runs_code: bool


def _load(manager: Any, entry: TaskEntry, settings: _Settings) -> tuple[LoadedTask, list[str]]:
    """A task, and what its user should be told."""
    seed_everything(settings.seed)
    try:
        # `evaluate` takes seconds to import, and few tasks do.
        with metric_scripts(entry.label) if settings.runs_code else nullcontext():
            loaded = manager.load([entry.name])
    except InputError:
        raise
    except Exception as error:  # a task may import anything and fail in any way
        raise _explained(entry.label, None, "loaded", error) from error
    check_loaded(loaded["tasks"], runs_code=settings.runs_code)
    metric = plotted_metric(entry, loaded["tasks"], loaded.get("groups") or {})
    loaded = _labelled(loaded, entry)
    label, tasks, groups = entry.label, loaded["tasks"], loaded.get("groups") or {}
    gen_kwargs = _set_gen_kwargs(entry, tasks, settings.prompting)
    overriding = {}
    chosen = None
    if settings.split is not None:
        documents = {name: list(task.eval_docs) for name, task in tasks.items()}
        chosen = split_items(label, documents, settings.split)
    for name, task in tasks.items():
        if set_num_fewshot(task, entry.num_fewshot):
            overriding[name] = task
        check_fewshot(label, task)
        task.set_fewshot_seed(seed=settings.seed)
        try:
            _build_requests(task, settings, None if chosen is None else chosen[name])
        except Exception as error:
            raise _explained(label, task, "asked", error) from error
        check_data(label, task)
    shots = {task.get_config("num_fewshot") for task in tasks.values()}
    requests = [request for task in tasks.values() for request in task.instances]
    loaded_task = LoadedTask(
        name=label,
        metric=metric,
        num_fewshot=shots.pop() if len(shots) == 1 else None,
        num_fewshot_asked=entry.num_fewshot if overriding else None,
        limit=settings.limit,
        version=str(groups[label].version if groups else tasks[label].VERSION),
        prompt_hash=hash_of_prompts(tasks),
        datasets=tuple(sorted({str(task.DATASET_PATH) for task in tasks.values()})),
        items=len({(request.task_name, request.doc_id) for request in requests}),
        prompt_chars=sum(len(str(part)) for request in requests for part in request.args),
        task_dict=loaded,
        chosen=chosen,
        turns=settings.prompting.turns,
        gen_kwargs=gen_kwargs,
        files=tuple(settings.own.hashes([entry.name]).items()),
        runs_code=settings.runs_code,
    )
    notes = [
        override_note(label, entry.num_fewshot, overriding),
        settings.conversations and settings.conversations.left_out(label, tasks.values()),
    ]
    return loaded_task, [note for note in notes if note]


def _labelled(loaded: dict[str, Any], entry: TaskEntry) -> dict[str, Any]:
    """What lm-eval loaded, with the recipe's alias in the place of the task's or group's name.

    The tasks of a group keep their names: in the results they stand below the group's.
    """
    if entry.alias is None:
        return loaded

    def under(names: dict[str, Any]) -> dict[str, Any]:
        return {entry.label if name == entry.name else name: each for name, each in names.items()}

    groups = loaded.get("groups") or {}
    if entry.name in groups:
        groups[entry.name].name = entry.alias
        return {**loaded, "groups": under(groups), "group_map": under(loaded["group_map"])}
    loaded["tasks"][entry.name].set_config(key="task", value=entry.alias)
    return {**loaded, "tasks": under(loaded["tasks"])}


def _set_gen_kwargs(entry: TaskEntry, tasks: Mapping[str, Any], prompting: Prompting) -> str | None:
    """Set the recipe's arguments of generation, and return them in JSON; None where there are none.

    Raises:
        InputError: When the entry has some of its own, and the task generates nothing.
    """
    given = {**prompting.gen_kwargs, **(entry.gen_kwargs or {})}
    generates = [set_gen_kwargs(task, given) for task in tasks.values()]
    if entry.gen_kwargs and not any(generates):
        raise InputError(
            f"tasks: {entry.label}: gen_kwargs: the task generates no text; leave them out"
        )
    return json.dumps(given, sort_keys=True) if given and any(generates) else None


def _build_requests(task: Any, settings: _Settings, places: list[int] | None) -> None:
    """Build a task's requests as lm-eval's evaluator does; `places` chooses items."""
    from lm_eval.evaluator_utils import get_sample_size

    items: dict[str, Any] = (
        {"limit": get_sample_size(task, settings.limit)} if places is None else {"samples": places}
    )
    writer = settings.conversations
    if writer is not None:
        items |= {
            "apply_chat_template": True,
            "fewshot_as_multiturn": settings.prompting.multiturn,
            "chat_template": writer.apply_chat_template,
            "tokenizer_name": writer.tokenizer_name,
        }
    task.build_all_requests(system_instruction=settings.prompting.system_instruction, **items)


def _explained(name: str, task: Any, what: str, error: Exception) -> InputError:
    """An error of lm-eval's, or of a task's own code, in one line."""
    column = column_of(error)
    if column is not None:
        return missing_column(name, task, column)
    if _CODE_EVAL in str(error):
        return InputError(
            f"tasks: {name}: its metric runs code that the model writes, and asks for "
            f"{_CODE_EVAL}=1 in the environment besides"
        )
    return InputError(f"tasks: {name} cannot be {what} ({type(error).__name__}: {one_line(error)})")


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch, as `lm_eval --seed` does before it loads tasks."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
