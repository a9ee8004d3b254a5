"""lm-eval tasks, loaded once for a whole sweep: names checked, datasets mapped, requests built.

The tasks are lm-eval's own, unmodified. What is added around them: dataset ids can be answered from
local folders, and the requests (prompts with their few-shot examples) are built once and hashed, so
that every slice is scored on the same bytes and a stored score can say which bytes those were.
"""

import contextlib
import difflib
import hashlib
import io
import json
import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

from matformer_lab import tiny
from matformer_lab.common.errors import InputError, one_line
from matformer_lab.sweep.recipe import TaskEntry

# Where lm-eval keeps the three usual tasks. Its index of all 14,000 task files takes 7 to 24 s to
# build; these folders alone take 0.03 s and hold the same three (tests compare the two).
_USUAL_FOLDERS: Final[Mapping[str, str]] = {
    "hellaswag": "hellaswag",
    "boolq": "super_glue/boolq",
    "mmlu": "mmlu/default",
}
TINY_PREFIX: Final = "tiny_"


@dataclass(frozen=True)
class LoadedTask:
    """A task or group of the recipe with its requests built, ready for any number of models."""

    name: str
    metric: str
    """The metric to plot, one of those the task reports."""
    num_fewshot: int | None
    """As used; None where the tasks of a group differ."""
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
    for name in names:
        _refuse_files(name)
    manager = _task_manager(names)
    own_data = tiny.datasets_dir()
    with quiet_lm_eval(), _templates_compiled_once(), mapped_datasets(datasets, own_data):
        return tuple(_load(manager, entry, limit=limit, seed=seed) for entry in entries)


def _load(manager: Any, entry: TaskEntry, *, limit: float | None, seed: int) -> LoadedTask:
    from lm_eval.evaluator_utils import get_sample_size

    _check_name(entry.name, manager)
    seed_everything(seed)
    try:
        loaded = manager.load([entry.name])
    except InputError:
        raise
    except Exception as error:  # a task may import anything and fail in any way
        raise InputError(
            f"tasks: {entry.name} cannot be loaded ({type(error).__name__}: {one_line(error)})"
        ) from error
    _check_loaded(loaded["tasks"])
    for task in loaded["tasks"].values():
        _set_num_fewshot(task, entry.num_fewshot)
        task.set_fewshot_seed(seed=seed)
        try:
            task.build_all_requests(limit=get_sample_size(task, limit))
        except (AssertionError, ValueError) as error:  # too few examples for so many shots
            raise InputError(f"tasks: {entry.name}: {one_line(error)}") from None
    tasks, groups = loaded["tasks"], loaded.get("groups") or {}
    shots = {task.get_config("num_fewshot") for task in tasks.values()}
    requests = [request for task in tasks.values() for request in task.instances]
    return LoadedTask(
        name=entry.name,
        metric=_plotted_metric(entry, tasks, groups),
        num_fewshot=shots.pop() if len(shots) == 1 else None,
        limit=limit,
        version=str(groups[entry.name].version if groups else tasks[entry.name].VERSION),
        prompt_hash=_prompt_hash(tasks),
        datasets=tuple(sorted({str(task.DATASET_PATH) for task in tasks.values()})),
        items=len({(request.task_name, request.doc_id) for request in requests}),
        prompt_chars=sum(len(str(part)) for request in requests for part in request.args),
        task_dict=loaded,
    )


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch, as `lm_eval --seed` does before it loads tasks."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


# --- names -------------------------------------------------------------------------------------


def _task_manager(names: Sequence[str]) -> Any:
    """lm-eval's task index, over only the folders that are needed where those are known."""
    others = tuple(sorted({name for name in names if not name.startswith(TINY_PREFIX)}))
    return _indexed(others if all(name in _USUAL_FOLDERS for name in others) else None)


@cache
def _indexed(usual: tuple[str, ...] | None) -> Any:
    """The index of the given usual tasks (None: of all lm-eval's) and of the package's own."""
    import lm_eval.tasks

    root = Path(lm_eval.tasks.__file__).parent
    folders = [] if usual is None else [root / _USUAL_FOLDERS[name] for name in usual]
    with quiet_lm_eval():
        return lm_eval.tasks.TaskManager(
            include_path=[*folders, tiny.tasks_dir()], include_defaults=usual is None
        )


def _refuse_files(name: str) -> None:
    """lm-eval would open a path as a task file, and a task file can run code (`!function`)."""
    if "/" in name or "\\" in name or name.endswith((".yaml", ".yml")):
        raise InputError(
            f"tasks: {name!r} looks like a file; a task file can run code, so only the names of "
            "tasks registered with lm-eval are accepted (`lm-eval ls tasks`)"
        )


def _check_name(name: str, manager: Any) -> None:
    if name not in manager.all_tasks:
        near = difflib.get_close_matches(name, _indexed(None).all_tasks, n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise InputError(f"tasks: {name!r} is not a task or group of lm-eval{hint}")
    entry = manager.task_index[name]
    if name in manager.all_tags:
        raise InputError(
            f"tasks: {name!r} is a tag for several tasks and has no score of its own; list the "
            f"ones you want: {_some(sorted(entry.tags))}"
        )
    settings = entry.cfg or {}
    if name in manager.all_groups and not settings.get("aggregate_metric_list"):
        raise InputError(
            f"tasks: the group {name!r} defines no common score; list its tasks instead"
        )
    if settings.get("unsafe_code"):
        raise InputError(f"tasks: {name} runs code that the model writes; not supported")


def _check_loaded(tasks: Mapping[str, Any]) -> None:
    for name, task in tasks.items():
        if getattr(task, "UNSAFE_CODE", False):
            raise InputError(f"tasks: {name} runs code that the model writes; not supported")
        if getattr(task, "MULTIMODAL", False):
            raise InputError(f"tasks: {name} needs images or audio; slices are scored on text")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def _plotted_metric(entry: TaskEntry, tasks: Mapping[str, Any], groups: Mapping[str, Any]) -> str:
    if entry.name in groups:
        metrics = [metric.metric for metric in groups[entry.name].aggregate_metric_list]
    else:
        metrics = list(tasks[entry.name].higher_is_better())
    if entry.metric is None:
        return str(metrics[0])
    if entry.metric.partition(",")[0] not in metrics:  # `exact_match,strict-match` names a filter
        raise InputError(
            f"tasks: {entry.name} has no metric {entry.metric!r}; it has {', '.join(metrics)}"
        )
    return entry.metric


def _set_num_fewshot(task: Any, wanted: int | None) -> None:
    """lm-eval's own rule: a task whose file says 0 stays at 0; no value anywhere means 0."""
    own = task.get_config("num_fewshot")
    if wanted is not None and own != 0:
        task.set_config(key="num_fewshot", value=wanted)
    elif own is None:
        task.set_config(key="num_fewshot", value=0)


# --- datasets ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Mapping:
    user: Path | None
    own: Path | None
    caches: dict[Path, Path] = field(default_factory=dict)

    def folder(self, dataset_id: str) -> Path | None:
        """The local folder for a dataset id; None: ask the Hub."""
        for root in (self.own, self.user):
            if root is not None and (root / dataset_id).is_dir():
                return root / dataset_id
        if self.user is not None:
            raise InputError(
                f"dataset {dataset_id!r} is not under {self.user}: put a copy of the dataset "
                f"repository at {self.user / dataset_id}, or leave --datasets out to use the Hub"
            )
        return None

    def cache(self, folder: Path) -> Path:
        """Where `datasets` may keep its Arrow copy of a local folder: a place for just these bytes.

        Left to itself it keys a folder with a README by the file patterns written there, so that
        another folder of the same layout, or new files in this one, would silently score as the
        old.
        """
        if folder not in self.caches:
            self.caches[folder] = _cache_root() / "local" / _content_hash(folder)[:32]
        return self.caches[folder]


_mapping: ContextVar[_Mapping | None] = ContextVar("dataset mapping", default=None)


@contextlib.contextmanager
def mapped_datasets(user: Path | None, own: Path | None = None) -> Iterator[None]:
    """Within it, `datasets.load_dataset("Rowan/hellaswag")` opens `user/Rowan/hellaswag`.

    `own` is looked at first and never leads to an error. Every lm-eval task loads its data through
    that one function; replacing a task's `dataset_path` instead would miss the tasks of a group.
    """
    import datasets

    original = datasets.load_dataset
    token = _mapping.set(_Mapping(user, own))
    datasets.load_dataset = _mapped(original)
    try:
        yield
    finally:
        datasets.load_dataset = original
        _mapping.reset(token)


def _mapped(original: Callable[..., Any]) -> Callable[..., Any]:
    def load_dataset(path: str, *args: Any, **kwargs: Any) -> Any:
        mapping = _mapping.get()
        if mapping is None:  # a task module imported within keeps this function for good
            return original(path, *args, **kwargs)
        folder = mapping.folder(path)
        if folder is not None and kwargs.get("cache_dir") is None:
            kwargs["cache_dir"] = str(mapping.cache(folder))
        try:
            return original(str(folder or path), *args, **kwargs)
        except Exception as error:
            where = f"cannot be read from {folder}" if folder else "cannot be had from the Hub"
            hint = "" if folder else "; with no network, give a folder of datasets (--datasets)"
            raise InputError(f"dataset {path!r} {where}: {one_line(error)}{hint}") from error

    return load_dataset


def _content_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{file.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def _cache_root() -> Path:
    from datasets import config

    return Path(config.HF_DATASETS_CACHE)


# --- hashing -----------------------------------------------------------------------------------


def _prompt_hash(tasks: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for name, task in sorted(tasks.items()):
        config = {
            key: value
            for key, value in task.dump_config().items()
            if key not in ("dataset_path", "metadata")  # where it lies is not what it says
        }
        digest.update(_stable_json([name, task.VERSION, config]))
        last_doc = None
        for request in task.instances:
            digest.update(
                _stable_json([request.doc_id, request.idx, request.request_type, request.args])
            )
            if request.doc_id != last_doc:
                digest.update(_stable_json(request.doc))
                last_doc = request.doc_id
    return digest.hexdigest()


def _stable_json(value: Any) -> bytes:
    """JSON that is the same in every process: functions by name, not by address."""

    def name_of(value: Any) -> str:
        if callable(value):
            return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"
        return str(value)

    return json.dumps(value, sort_keys=True, default=name_of, ensure_ascii=False).encode()


# --- speed and quiet ---------------------------------------------------------------------------


@contextlib.contextmanager
def _templates_compiled_once() -> Iterator[None]:
    """lm-eval compiles a task's few Jinja templates anew for every field of every example.

    With the compiled ones kept, 5,000 HellaSwag prompts of 10 shots take seconds instead of 88 s.
    """
    from lm_eval.utils import env

    original = env.from_string
    env.from_string = cache(original)
    try:
        yield
    finally:
        env.from_string = original


@contextlib.contextmanager
def quiet_lm_eval() -> Iterator[None]:
    """No progress bars and no log lines below ERROR from lm-eval and datasets.

    Their bars follow `sys.stderr` at the time they are made and have no switch of their own.
    """
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
