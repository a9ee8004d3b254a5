"""How many examples a task's prompts get, which is not always what was asked for."""

from collections.abc import Mapping
from typing import Any

from matformer_lab.common.errors import InputError


def set_num_fewshot(task: Any, wanted: int | None) -> bool:
    """Set a task's number of examples by lm-eval's own rule.

    A task whose file says 0 stays at 0; no value anywhere means 0.

    Args:
        task: lm-eval's task object.
        wanted: What the recipe asks for; None: the task's own number.

    Returns:
        Whether the task's file overrides what was asked for.
    """
    own = task.get_config("num_fewshot")
    if wanted is not None and own != 0:
        task.set_config(key="num_fewshot", value=wanted)
    elif own is None:
        task.set_config(key="num_fewshot", value=0)
    return bool(wanted) and own == 0


def check_fewshot(name: str, task: Any) -> None:
    """Check that a task can have as many examples as it is set to.

    Args:
        name: The name of the recipe's task.
        task: lm-eval's task object: that task, or one of its group.

    Raises:
        InputError: When its prompts take none, or there are too few to draw from.
    """
    from lm_eval.api.samplers import ContextSampler

    shots = task.get_config("num_fewshot") or 0
    if not shots:
        return
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        raise InputError(
            f"tasks: {name}: num_fewshot is {shots}, but the task scores whole texts, without a "
            "prompt that examples could stand in; leave num_fewshot out"
        )
    sampler: Any = getattr(task, "sampler", None)
    pool = getattr(sampler, "df", None)
    if pool is None:
        return
    split = getattr(getattr(task, "fewshot_cfg", None), "split", None)
    # lm-eval's own sampler draws one more where the item itself might be drawn; with no split named
    # on either side it takes them for the same.
    draws_more = type(sampler).sample is ContextSampler.sample and split == task.get_config(
        "test_split"
    )
    available = len(pool) - draws_more
    if shots > available:
        which = "" if task.task_name == name else f" of {task.task_name}"
        raise InputError(
            f"tasks: {name}: num_fewshot is {shots}, more than the {available} examples"
            f"{which} that there are to draw from"
        )


def override_note(name: str, wanted: int | None, overriding: Mapping[str, Any]) -> str | None:
    """What to tell of tasks whose files say 0.

    Args:
        name: The name of the recipe's task.
        wanted: What the recipe asks for.
        overriding: Those of its tasks whose file overrides that.
    """
    if not overriding:
        return None
    which = "its file says" if name in overriding else f"the files of {_some(overriding)} say"
    return (
        f"tasks: {name}: num_fewshot is {wanted} in the recipe, but {which} 0, which lm-eval "
        "obeys: scored without examples"
    )


def _some(names: Mapping[str, Any]) -> str:
    listed = list(names)
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return ", ".join(listed[:3]) + more
