"""Names of lm-eval's tasks: which there are, and which can be scored."""

import difflib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from matformer_lab import tiny
from matformer_lab.common.errors import InputError
from matformer_lab.evaluation.quiet import quiet_lm_eval

# Where lm-eval keeps the three usual tasks. Its index of all 14,000 task files takes 7 to 24 s to
# build; these folders alone take 0.03 s and hold the same three (tests compare the two).
USUAL_FOLDERS: Final[Mapping[str, str]] = {
    "hellaswag": "hellaswag",
    "boolq": "super_glue/boolq",
    "mmlu": "mmlu/default",
}


TINY_PREFIX: Final = "tiny_"


def task_manager(names: Sequence[str]) -> Any:
    """lm-eval's task index, over only the folders that are needed where those are known."""
    others = tuple(sorted({name for name in names if not name.startswith(TINY_PREFIX)}))
    return indexed(others if all(name in USUAL_FOLDERS for name in others) else None)


@cache
def indexed(usual: tuple[str, ...] | None) -> Any:
    """The index of the given usual tasks (None: of all lm-eval's) and of the package's own."""
    import lm_eval.tasks

    root = Path(lm_eval.tasks.__file__).parent
    folders = [] if usual is None else [root / USUAL_FOLDERS[name] for name in usual]
    with quiet_lm_eval():
        return lm_eval.tasks.TaskManager(
            include_path=[*folders, tiny.tasks_dir()], include_defaults=usual is None
        )


def refuse_files(name: str) -> None:
    """lm-eval would open a path as a task file, and a task file can run code (`!function`)."""
    if "/" in name or "\\" in name or name.endswith((".yaml", ".yml")):
        raise InputError(
            f"tasks: {name!r} looks like a file; a task file can run code, so only the names of "
            "tasks registered with lm-eval are accepted (`lm-eval ls tasks`)"
        )


def check_name(name: str, manager: Any) -> None:
    if name not in manager.all_tasks:
        near = difflib.get_close_matches(name, indexed(None).all_tasks, n=3, cutoff=0.5)
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


def check_loaded(tasks: Mapping[str, Any]) -> None:
    for name, task in tasks.items():
        if getattr(task, "UNSAFE_CODE", False):
            raise InputError(f"tasks: {name} runs code that the model writes; not supported")
        if getattr(task, "MULTIMODAL", False):
            raise InputError(f"tasks: {name} needs images or audio; slices are scored on text")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
