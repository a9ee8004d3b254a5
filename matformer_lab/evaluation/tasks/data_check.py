"""Whether a task's data has what the task reads, found before anything is scored.

lm-eval takes the name of a column that is not there for a text: every prompt would then say
`question`, or every answer count as wrong, and the score would look like one.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

from matformer_lab.common.errors import InputError

_TEMPLATES: Final = ("doc_to_text", "doc_to_target", "doc_to_choice")
_COLUMN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MAYBE_NULL: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*) is (?:not )?none\b")
"""As in `{% if answer is not none %}`: the test split of MGSM has no worked answers."""


def check_data(name: str, task: Any) -> None:
    """Check the data of a task whose requests are built.

    Args:
        name: The task's name, for the error.
        task: lm-eval's task object.

    Raises:
        InputError: When a column is missing, or no item has an answer.
    """
    columns = getattr(task, "features", None)
    for key in _TEMPLATES:
        written = task.get_config(key)
        is_name = isinstance(written, str) and _COLUMN.fullmatch(written)
        if columns is not None and is_name and written not in columns:
            raise missing_column(name, task, written)
    docs = list(_docs(task))
    if not docs:
        raise InputError(f"tasks: {name}: its data {_path(task)!r} has no items")
    for column in _columns_read(task):
        # A file without a column that another file of the dataset has gives nothing but nulls.
        if all(isinstance(doc, dict) and doc.get(column) is None for doc, _ in docs):
            raise missing_column(name, task, column)
    try:
        if not getattr(task, "UNSAFE_CODE", False):  # what is made up is not code to run
            task.process_results(*docs[0])
    except Exception as error:  # a metric that fails on a made-up answer says nothing of the data
        if (missing := column_of(error)) is not None:
            raise missing_column(name, task, missing) from error
    has_golds = task.OUTPUT_TYPE == "multiple_choice" and not _has_own_metrics(task)
    if has_golds and not any(_has_answer(task, doc) for doc, _ in docs):
        raise InputError(
            f"tasks: {name}: none of its {len(docs)} items in {_path(task)!r} has a right "
            "answer among its choices; every score would be 0"
        )


def missing_column(name: str, task: Any, column: str) -> InputError:
    """The error for a column that the data lacks.

    Args:
        name: The task's name.
        task: lm-eval's task object; None where it could not be made.
        column: The column.
    """
    where = f" in {_path(task)!r}" if task is not None else ""
    return InputError(
        f"tasks: {name}: its data{where} has no column {column!r}; check the dataset's folder or "
        "revision"
    )


def column_of(error: BaseException) -> str | None:
    """The column whose absence an error of lm-eval's complains about; None for other errors."""
    from jinja2 import UndefinedError

    if isinstance(error, KeyError) and error.args and isinstance(error.args[0], str):
        found = error.args[0]
        return found if _COLUMN.fullmatch(found) else None
    if isinstance(error, UndefinedError):
        match = re.match(r"'(\w+)' is undefined", str(error))
        return match[1] if match else None
    return None


def _columns_read(task: Any) -> list[str]:
    """The columns that the task's templates name, without those that they expect to be null."""
    templates = [text for key in _TEMPLATES if isinstance(text := task.get_config(key), str)]
    words = {word for text in templates for word in _COLUMN.findall(text)}
    words -= {word for text in templates for word in _MAYBE_NULL.findall(text)}
    return [column for column in getattr(task, "features", ()) if column in words]


def _docs(task: Any) -> Iterator[tuple[Any, list[Any]]]:
    """Each item and made-up answers to its requests."""
    made_up = {
        "loglikelihood": (-1.0, False),
        "multiple_choice": (-1.0, False),
        "loglikelihood_rolling": -1.0,
        "generate_until": "",
    }
    requests: dict[int, list[Any]] = {}
    for request in task.instances:
        requests.setdefault(request.doc_id, []).append(request)
    for own in requests.values():
        yield own[0].doc, [made_up[task.OUTPUT_TYPE]] * len(own)


def _has_own_metrics(task: Any) -> bool:
    return callable(task.get_config("process_results")) or not hasattr(task, "multiple_input")


def _has_answer(task: Any, doc: Any) -> bool:
    """Whether one of the choices is right, by lm-eval's own rules."""
    choices = task.doc_to_choice(doc)
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    return any(
        each in choices if isinstance(each, str) else 0 <= int(each) < len(choices)
        for each in (gold if isinstance(gold, list) else [gold])
        if isinstance(each, str | int | float)
    )


def _path(task: Any) -> str:
    return str(getattr(task, "DATASET_PATH", None) or task)
