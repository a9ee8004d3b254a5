"""A loaded task for lm-eval's evaluator: its requests and documents as they are, for every slice.

By itself the evaluator builds the requests, decodes the dataset and renders each document's answers
anew for every slice, which takes longer than scoring a small one.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from matformer_lab.evaluation.tasks.loading import LoadedTask

_RENDERED = ("doc_to_text", "doc_to_target", "doc_to_choice")


@contextmanager
def requests_built(task: LoadedTask) -> Iterator[None]:
    """Within it, lm-eval's evaluator uses what `task` has instead of building it anew."""
    replaced: list[tuple[Any, str]] = []
    try:
        for name, subtask in task.subtasks.items():
            for method, replacement in _methods(task, name).items():
                setattr(subtask, method, replacement)
                replaced.append((subtask, method))
        yield
    finally:
        for subtask, method in replaced:
            delattr(subtask, method)


def _methods(task: LoadedTask, name: str) -> dict[str, Callable[..., Any]]:
    """What stands in for the methods of a subtask, by their names."""
    subtask = task.subtasks[name]
    keep = {"build_all_requests": _keep(subtask.instances)}
    if _runs_code(subtask):
        return {**keep, "doc_iterator": _copies(subtask.instances)}
    return {**keep, **_documents_of(task)[name].methods(subtask)}


def _keep(requests: list[Any]) -> Callable[..., None]:
    def build_all_requests(**_: Any) -> None:
        for request in requests:
            request.resps = []
            request.filtered_resps = {}

    return build_all_requests


def _runs_code(subtask: Any) -> bool:
    """Whether code of the task's own sees the documents, and might change them."""
    from lm_eval.api.task import ConfigurableTask

    settings = vars(subtask.config).values()
    return type(subtask) is not ConfigurableTask or any(map(callable, settings))


def _copies(requests: list[Any]) -> Callable[..., Iterator[tuple[int, Any]]]:
    def doc_iterator(**_: Any) -> Iterator[tuple[int, Any]]:
        by_id = {request.doc_id: request.doc for request in requests}
        return ((doc_id, copy.deepcopy(doc)) for doc_id, doc in by_id.items())

    return doc_iterator


@lru_cache(maxsize=1)
def _documents_of(task: LoadedTask) -> "dict[str, _Documents]":
    """By subtask, of the latest task alone: a sweep goes through one task after the other."""
    return {name: _Documents(subtask.instances) for name, subtask in task.subtasks.items()}


class _Documents:
    """The documents of a task without code, and what its templates make of each, rendered once."""

    def __init__(self, requests: list[Any]) -> None:
        self._by_id = copy.deepcopy({request.doc_id: request.doc for request in requests})
        self._ours = {id(doc) for doc in self._by_id.values()}
        self._rendered: dict[tuple[str, int], Any] = {}

    def methods(self, subtask: Any) -> dict[str, Callable[..., Any]]:
        """What stands in for the methods of `subtask`."""
        rendered = {name: self._once(name, getattr(subtask, name)) for name in _RENDERED}
        return {"doc_iterator": self._iterate, **rendered}

    def _iterate(self, **_: Any) -> Iterator[tuple[int, Any]]:
        return iter(self._by_id.items())

    def _once(self, name: str, render: Callable[..., Any]) -> Callable[..., Any]:
        def rendered(doc: Any, *template: Any) -> Any:
            key = name, id(doc)
            if template or key[1] not in self._ours:
                return render(doc, *template)
            if key not in self._rendered:
                self._rendered[key] = render(doc)
            return copy.deepcopy(self._rendered[key])  # a metric may change a list

        return rendered
