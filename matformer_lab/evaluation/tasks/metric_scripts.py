"""Metrics of `evaluate`, which are scripts: here, in its cache, or fetched from the Hub.

HumanEval and MBPP need one, `code_eval`. Where there is no network and no copy, `evaluate` tries
for half a minute and then says that there is no such metric.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matformer_lab.common.errors import InputError
from matformer_lab.evaluation.tasks.hub_reach import offline_if_unreachable


@contextlib.contextmanager
def metric_scripts(task: str) -> Iterator[None]:
    """Within it, `evaluate.load` asks the Hub only where it answers.

    Args:
        task: The task that is loaded, for errors.

    Raises:
        InputError: From `evaluate.load`, when a metric is neither here nor to be had.
    """
    import evaluate

    original = evaluate.load

    def load(path: str, *args: Any, **kwargs: Any) -> Any:
        if Path(path).is_file() or Path(path, f"{Path(path).name}.py").is_file():
            return original(path, *args, **kwargs)
        with offline_if_unreachable() as why_not, _offline(why_not is not None):
            try:
                return original(path, *args, **kwargs)
            except (FileNotFoundError, ConnectionError) as error:
                raise InputError(_missing(task, path, why_not)) from error

    evaluate.load = load
    try:
        yield
    finally:
        evaluate.load = original


@contextlib.contextmanager
def _offline(offline: bool) -> Iterator[None]:
    """`evaluate`'s own switch, which it reads at every request."""
    from evaluate import config

    before = config.HF_EVALUATE_OFFLINE
    config.HF_EVALUATE_OFFLINE = before or offline
    try:
        yield
    finally:
        config.HF_EVALUATE_OFFLINE = before


def _missing(task: str, metric: str, why_not: str | None) -> str:
    name = metric.rpartition("/")[2]
    repo = metric if "/" in metric else f"evaluate-metric/{metric}"
    return (
        f"tasks: {task}: its metric {metric} is a script of the Hub's "
        f"({why_not or 'which does not have it'}) and there is no copy here; where there is a "
        f"network: hf download {repo} --repo-type space --local-dir {name}, and put the folder "
        f"{name} into the working directory"
    )
