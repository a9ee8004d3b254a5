"""Loads lm-eval tasks once for a whole sweep: names checked, datasets mapped, requests built.

The tasks are lm-eval's own, unmodified. Two things are added: datasets can be read from local
folders, and the requests (prompts with their few-shot examples) are built once and hashed, so that
every slice is scored on the same bytes and a stored score says which bytes those were.
"""

import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matformer_lab import tiny
from matformer_lab.common.errors import InputError, one_line
from matformer_lab.evaluation.quiet import quiet_lm_eval, templates_compiled_once
from matformer_lab.evaluation.tasks.data_check import check_data, column_of, missing_column
from matformer_lab.evaluation.tasks.datasets import mapped_datasets
from matformer_lab.evaluation.tasks.entry import TaskEntry
from matformer_lab.evaluation.tasks.fewshot import check_fewshot, override_note, set_num_fewshot
from matformer_lab.evaluation.tasks.metric import plotted_metric
from matformer_lab.evaluation.tasks.names import (
    check_loaded,
    check_name,
    check_names,
    task_manager,
)
from matformer_lab.evaluation.tasks.prompt_hash import hash_of_prompts
from matformer_lab.evaluation.tasks.split import Split, split_items


@dataclass(frozen=True)
class LoadedTask:
    """A task or group of the recipe with its requests built, ready for any number of models.

    Attributes:
        name: As in the recipe.
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
) -> tuple[LoadedTask, ...]:
    """Load the tasks and build their requests as `lm_eval --seed SEED --limit LIMIT` would.

    Args:
        entries: The tasks of a recipe.
        limit: Items for each task, or a fraction below 1; None for all.
        seed: Of the few-shot examples, and of whatever else a task draws.
        datasets: A folder laid out by dataset id; None reads datasets from the Hub. The tasks
            shipped with the package always read their own data.
        split: Which part of the items to load; None: all of them.

    Raises:
        InputError: For an unknown task, a task that cannot be scored, a metric the task does not
            have, too few examples for the prompts, or a dataset that is not there.
    """
    if datasets is not None and not datasets.is_dir():
        raise InputError(f"`datasets` is {datasets}: no such folder")
    names = [entry.name for entry in entries]
    check_names(names)
    manager = task_manager(names)
    own_data = tiny.datasets_dir()
    with quiet_lm_eval(), templates_compiled_once(), mapped_datasets(datasets, own_data):
        loaded = [_load(manager, entry, limit=limit, seed=seed, split=split) for entry in entries]
    for _, note in loaded:
        if note:
            warnings.warn(note, stacklevel=1)
    return tuple(task for task, _ in loaded)


def _load(
    manager: Any, entry: TaskEntry, *, limit: float | None, seed: int, split: Split | None
) -> tuple[LoadedTask, str | None]:
    """A task, and what its user should be told."""
    from lm_eval.evaluator_utils import get_sample_size

    check_name(entry.name, manager)
    seed_everything(seed)
    try:
        loaded = manager.load([entry.name])
    except InputError:
        raise
    except Exception as error:  # a task may import anything and fail in any way
        raise _explained(entry.name, None, "loaded", error) from error
    check_loaded(loaded["tasks"])
    tasks, groups = loaded["tasks"], loaded.get("groups") or {}
    metric = plotted_metric(entry, tasks, groups)
    overriding = {}
    chosen = None
    if split is not None:
        documents = {name: list(task.eval_docs) for name, task in tasks.items()}
        chosen = split_items(entry.name, documents, split)
    for name, task in tasks.items():
        if set_num_fewshot(task, entry.num_fewshot):
            overriding[name] = task
        check_fewshot(entry.name, task)
        task.set_fewshot_seed(seed=seed)
        try:
            if chosen is None:
                task.build_all_requests(limit=get_sample_size(task, limit))
            else:
                task.build_all_requests(samples=chosen[name])
        except Exception as error:
            raise _explained(entry.name, task, "asked", error) from error
        check_data(entry.name, task)
    shots = {task.get_config("num_fewshot") for task in tasks.values()}
    requests = [request for task in tasks.values() for request in task.instances]
    task = LoadedTask(
        name=entry.name,
        metric=metric,
        num_fewshot=shots.pop() if len(shots) == 1 else None,
        num_fewshot_asked=entry.num_fewshot if overriding else None,
        limit=limit,
        version=str(groups[entry.name].version if groups else tasks[entry.name].VERSION),
        prompt_hash=hash_of_prompts(tasks),
        datasets=tuple(sorted({str(task.DATASET_PATH) for task in tasks.values()})),
        items=len({(request.task_name, request.doc_id) for request in requests}),
        prompt_chars=sum(len(str(part)) for request in requests for part in request.args),
        task_dict=loaded,
        chosen=chosen,
    )
    return task, override_note(entry.name, entry.num_fewshot, overriding)


def _explained(name: str, task: Any, what: str, error: Exception) -> InputError:
    """An error of lm-eval's, or of a task's own code, in one line."""
    column = column_of(error)
    if column is not None:
        return missing_column(name, task, column)
    return InputError(f"tasks: {name} cannot be {what} ({type(error).__name__}: {one_line(error)})")


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch, as `lm_eval --seed` does before it loads tasks."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
