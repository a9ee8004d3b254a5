"""Names of lm-eval's tasks: which exist, and which can be scored."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from matformer_lab import tiny
from matformer_lab.common.errors import InputError
from matformer_lab.common.shipped import shipped_folder
from matformer_lab.evaluation.quiet import quiet_lm_eval
from matformer_lab.evaluation.tasks.known_names import keep_names, known_names
from matformer_lab.evaluation.tasks.task_files import TaskFolders, check_names_are_new

# Where lm-eval keeps the three usual tasks and those of Gemma 3n's model card. Indexing all of its
# 14,000 task files takes 7 to 24 s; the folders of the three alone take 0.03 s and define the same
# tasks (a test compares them).
USUAL_FOLDERS: Final[Mapping[str, str]] = {
    "hellaswag": "hellaswag",
    "boolq": "super_glue/boolq",
    "mmlu": "mmlu/default",
    "piqa": "piqa",
    "social_iqa": "siqa",
    "triviaqa": "triviaqa",
    "nq_open": "nq_open",
    "arc_challenge": "arc",
    "arc_easy": "arc",
    "winogrande": "winogrande",
    "bbh_cot_fewshot": "bbh/cot_fewshot",
    "drop": "drop",
    "card_mgsm": "mgsm/native_cot",
    "card_include": "include/default",
    "card_mmlu_prox": "mmlu_prox",
    "mmmlu": "openai-mmmlu/default",
    "card_global_mmlu": "global_mmlu/full",
    "gpqa_diamond_cot_zeroshot": "gpqa/cot_zeroshot",
    "aime25": "aime",
    "mbpp_instruct": "mbpp",
    "humaneval_instruct": "humaneval",
    "card_global_mmlu_lite": "global_mmlu/default",
    "mmlu_pro": "mmlu_pro",
}

FOLDERS_BY_PREFIX: Final[Mapping[str, str]] = {
    "mmmlu_": "openai-mmmlu/default",
    "global_mmlu_full_": "global_mmlu/full",
    "mmlu_prox_": "mmlu_prox",
}
"""Where all tasks and groups are whose names begin so: one language of these, say."""

TINY_PREFIX: Final = "tiny_"


def card_tasks_dir() -> Path:
    """The folder of the groups that join lm-eval's groups of one language each."""
    return shipped_folder("configs") / "model_card_tasks"


def shipped_names() -> frozenset[str]:
    """The tasks and groups that ship with the package: each is in a file of its name."""
    return tiny.task_names() | {path.stem for path in card_tasks_dir().glob("*.yaml")}


_NONE: Final = TaskFolders()


def task_manager(names: Sequence[str], own: TaskFolders = _NONE) -> Any:
    """lm-eval's task index for `names`, over no more folders than needed where these are known.

    Args:
        names: Of a recipe's tasks.
        own: What the recipe's folders define.
    """
    needed = own.needed_of_lm_eval(names)
    if (known := known_names()) is not None:  # a group's file may hold tasks without a name outside
        needed = tuple(name for name in needed if name in known | shipped_names())
    others = tuple(name for name in needed if not name.startswith(TINY_PREFIX))
    return indexed(others if all(map(_has_folder, others)) else None, own)


def folder_of(name: str) -> str | None:
    """The folder in which lm-eval is known to keep a task; None where that is not known."""
    by_prefix = (folder for begin, folder in FOLDERS_BY_PREFIX.items() if name.startswith(begin))
    return USUAL_FOLDERS.get(name) or next(by_prefix, None)


def _has_folder(name: str) -> bool:
    """Whether lm-eval is known to keep a task in one folder, and this version has that folder."""
    spec, folder = find_spec("lm_eval"), folder_of(name)
    if folder is None or spec is None or spec.origin is None:
        return False
    return (Path(spec.origin).parent / "tasks" / folder).is_dir()


@cache
def indexed(usual: tuple[str, ...] | None, own: TaskFolders = _NONE) -> Any:
    """lm-eval's index of the package's own tasks, the given usual ones and a recipe's own.

    Args:
        usual: None is all of lm-eval's.
        own: What the recipe's folders define.
    """
    import lm_eval.tasks

    root = Path(lm_eval.tasks.__file__).parent
    folders = sorted({root / str(folder_of(name)) for name in usual or ()})
    with quiet_lm_eval():
        manager = lm_eval.tasks.TaskManager(
            include_path=[*folders, card_tasks_dir(), tiny.tasks_dir(), *own.folders],
            include_defaults=usual is None,
        )
    if usual is None and not own.folders:
        keep_names(manager.all_tasks)
    return manager


def check_names(names: Iterable[str], own: TaskFolders = _NONE) -> None:
    """Refuse what is certainly no task's name, before anything else is done.

    Args:
        names: Of a recipe's tasks.
        own: What the recipe's folders define.

    Raises:
        InputError: For a file, a name that neither lm-eval nor the folders have, or one that both
            have.
    """
    known = known_names()
    taken = shipped_names() | (known or frozenset())
    check_names_are_new(own, taken)
    for name in names:
        refuse_files(name)
        if known is not None and name not in taken | own.names | own.tags:
            raise InputError(_unknown(name, taken | own.names))


def refuse_files(name: str) -> None:
    """Check that `name` is not a path.

    lm-eval would open it as a task file, and a task file can run code (`!function`).

    Raises:
        InputError: When it looks like one.
    """
    if "/" in name or "\\" in name or name.endswith((".yaml", ".yml")):
        raise InputError(
            f"tasks: {name!r} looks like a file; a task file can run code, so tasks are given by "
            "name only: of lm-eval (`lm-eval ls tasks` lists them), or of a file in `task_folders`"
        )


def _unknown(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.5)
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    return f"tasks: {name!r} is not a task or group of lm-eval{hint}"


def check_name(name: str, manager: Any, *, runs_code: bool = False) -> None:
    """Check that `name` is a task or group with a score of its own.

    Args:
        name: As in a recipe.
        manager: From `task_manager`.
        runs_code: Whether code that the model writes may run.

    Raises:
        InputError: When it is unknown, a tag, a group without a common score, or a task that runs
            code the model writes where that is not allowed.
    """
    if name not in manager.all_tasks:
        known = known_names() or indexed(None).all_tasks
        raise InputError(_unknown(name, {*known, *shipped_names()}))
    entry = manager.task_index[name]
    if name in manager.all_tags:
        raise InputError(
            f"tasks: {name!r} is a tag for several tasks, without a score of its own; list the "
            f"tasks you want: {_some(sorted(entry.tags))}"
        )
    settings = entry.cfg or {}
    if name in manager.all_groups and not settings.get("aggregate_metric_list"):
        raise InputError(
            f"tasks: the group {name!r} defines no common score; list its tasks instead"
        )
    if settings.get("unsafe_code") and not runs_code:
        raise _runs_code(name)


def check_loaded(tasks: Mapping[str, Any], *, runs_code: bool = False) -> None:
    """Check what only loaded tasks tell, the tasks of a group included.

    Args:
        tasks: lm-eval's task objects by name.
        runs_code: Whether code that the model writes may run.

    Raises:
        InputError: When a task runs code the model writes where that is not allowed, or needs
            images or audio.
    """
    for name, task in tasks.items():
        if getattr(task, "UNSAFE_CODE", False) and not runs_code:
            raise _runs_code(name)
        if getattr(task, "MULTIMODAL", False):
            raise InputError(f"tasks: {name} needs images or audio; slices are scored on text")


def _runs_code(name: str) -> InputError:
    return InputError(
        f"tasks: {name} runs code that the model writes, on this machine; allow it with "
        "`confirm_run_unsafe_code`"
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
