"""The metric of a task that is plotted."""

from collections.abc import Mapping
from typing import Any, Final

from matformer_lab.common.errors import InputError
from matformer_lab.evaluation.tasks.entry import TaskEntry

_NO_FILTER: Final = "none"


def plotted_metric(entry: TaskEntry, tasks: Mapping[str, Any], groups: Mapping[str, Any]) -> str:
    """The metric that a recipe asks for, else the first that the task reports.

    Args:
        entry: The recipe's. `exact_match,strict-match` names a metric and a filter of its answers.
        tasks: lm-eval's task objects by name.
        groups: lm-eval's groups by name, where the recipe's task is one.

    Returns:
        Its name as in results.csv: without the filter where there is only lm-eval's own.

    Raises:
        InputError: When the task does not have the metric, or the filter.
    """
    filters = _filters_by_metric(tasks)
    if entry.name in groups:
        filters = {
            str(each.metric): [
                name
                for name in filters.get(str(each.metric), ())
                if each.filter_list is None or name in each.filter_list
            ]
            for each in groups[entry.name].aggregate_metric_list
        }
    filters = {metric: names for metric, names in filters.items() if names}
    if not filters:
        raise InputError(f"tasks: {entry.name} reports no metric of its own")
    if entry.metric is None:
        return next(iter(filters))
    metric, comma, chosen = entry.metric.partition(",")
    if metric not in filters:
        raise InputError(
            f"tasks: {entry.name} has no metric {entry.metric!r}; it has {', '.join(filters)}"
        )
    if comma and chosen not in filters[metric]:
        known = ", ".join(f"{metric},{name}" for name in filters[metric])
        raise InputError(
            f"tasks: {entry.name} has no metric {entry.metric!r}: {metric} comes as {known}"
        )
    return metric if chosen == _NO_FILTER else entry.metric


def metrics_of(task: Any) -> dict[str, bool]:
    """Whether a larger score is better, by the names that lm-eval's results have.

    Those of its task files but for `pass_at_k`, whose function names its scores itself: `pass@1`
    for `k: [1]` (HumanEval).

    Args:
        task: lm-eval's task object.
    """
    found: dict[str, bool] = {}
    for metric, higher in task.higher_is_better().items():
        counts = getattr(task, "_metric_fn_kwargs", {}).get(metric, {}).get("k")
        names = [f"pass@{k}" for k in counts] if metric == "pass_at_k" and counts else [metric]
        found |= dict.fromkeys(map(str, names), higher)
    return found


def _filters_by_metric(tasks: Mapping[str, Any]) -> dict[str, list[str]]:
    """The filters through which the answers of a metric go, by the metric's name."""
    found: dict[str, list[str]] = {}
    for task in tasks.values():
        names = [str(each.name) for each in task._filters]
        for metric in metrics_of(task):
            known = found.setdefault(metric, [])
            known += [name for name in dict.fromkeys(names) if name not in known]
    return found
