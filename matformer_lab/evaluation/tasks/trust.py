"""Code that comes with task files: what would run, and whether the recipe allows it."""

import warnings
from collections.abc import Iterator

from matformer_lab.common.errors import InputError
from matformer_lab.evaluation.tasks.task_files import TaskFile, TaskFolders


def check_trust(label: str, name: str, own: TaskFolders, *, trusted: bool) -> None:
    """Check that a task of the recipe's folders runs no code, or that it is allowed to.

    Args:
        label: What the task is called in the results.
        name: The task's name.
        own: What the recipe's folders define.
        trusted: Whether the recipe allows code; what runs is told then.

    Raises:
        InputError: When code would run that is not allowed; says what would run.
    """
    files = own.used_by([name])
    code = list(dict.fromkeys(line for file in files for line in code_of(file)))
    if not code:
        return
    if not trusted:
        raise InputError(
            f"tasks: {label} runs code that comes with its file ({files[0].path}): "
            f"{', '.join(code)}; look at it, and allow it with `trust_tasks`"
        )
    warnings.warn(f"tasks: {label} runs code that comes with it: {', '.join(code)}", stacklevel=2)


def code_of(file: TaskFile) -> Iterator[str]:
    """The code that loading or scoring a task would run, each as a user would look for it."""
    import lm_eval.api.metrics  # noqa: F401 - fills the registry
    from lm_eval.api.registry import metric_registry

    for function in file.functions:
        where = function.file or f"installed module {function.name.rpartition('.')[0]}"
        yield f"{function.name} ({where})"
    for metric, of_evaluate in file.metrics:
        if of_evaluate or metric not in metric_registry:
            yield f"the metric {metric!r} of `evaluate`"
    if file.reads_pickles:
        yield "pickles (dataset_path: pandas)"
