"""lm-eval tasks, loaded once for a whole sweep: names checked, datasets mapped, requests built.

The tasks are lm-eval's own, unmodified. What is added around them: dataset ids can be answered from
local folders, and the requests (prompts with their few-shot examples) are built once and hashed, so
that every slice is scored on the same bytes and a stored score can say which bytes those were.
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


@dataclass(frozen=True)
class LoadedTask:
    """A task or group of the recipe with its requests built, ready for any number of models."""

    name: str
    metric: str
    """The metric to plot, one of those the task reports."""
    num_fewshot: int | None
    """As used; None where the tasks of a group differ."""
    num_fewshot_asked: int | None
    """As the recipe asks, where the file of a task overrides that; None elsewhere."""
    limit: float | None
    version: str
    """lm-eval's version of the task (of the group, for a group)."""
    prompt_hash: str
    """sha256 (hex) over every request, document and setting that enters the score."""
    datasets: tuple[str, ...]
    items: int
    prompt_chars: int
    """Characters over all requests: what the time estimate scales with."""
    task_dict: Mapping[str, Any] = field(repr=False, compare=False)
    """lm-eval's `TaskDict`: {tasks: {name: Task}, groups: {name: Group}, group_map}."""

    @property
    def subtasks(self) -> Mapping[str, Any]:
        """The leaf tasks by name; one with the task's own name where it is no group."""
        tasks: Mapping[str, Any] = self.task_dict["tasks"]
        return tasks

    @property
    def requests(self) -> list[Any]:
        """Every lm-eval `Instance`, in the order lm-eval scores them."""
        return [request for task in self.subtasks.values() for request in task.instances]


def load_tasks(
    entries: Sequence[TaskEntry], *, limit: float | None, seed: int, datasets: Path | None
) -> tuple[LoadedTask, ...]:
    """Load and build the tasks as `lm_eval --seed SEED --limit LIMIT` would.

    `datasets` maps dataset ids to folders under it; None leaves them to the Hub (the tasks shipped
    with the package always read their own data). Raises `InputError` for an unknown task name, a
    metric the task does not have, or a dataset that is not there.
    """
    if datasets is not None and not datasets.is_dir():
        raise InputError(f"datasets: no such folder: {datasets}")
    names = [entry.name for entry in entries]
    check_names(names)
    manager = task_manager(names)
    own_data = tiny.datasets_dir()
    with quiet_lm_eval(), templates_compiled_once(), mapped_datasets(datasets, own_data):
        loaded = [_load(manager, entry, limit=limit, seed=seed) for entry in entries]
    for _, note in loaded:
        if note:
            warnings.warn(note, stacklevel=1)
    return tuple(task for task, _ in loaded)


def _load(
    manager: Any, entry: TaskEntry, *, limit: float | None, seed: int
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
    for name, task in tasks.items():
        if set_num_fewshot(task, entry.num_fewshot):
            overriding[name] = task
        check_fewshot(entry.name, task)
        task.set_fewshot_seed(seed=seed)
        try:
            task.build_all_requests(limit=get_sample_size(task, limit))
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
