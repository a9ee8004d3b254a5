"""Scores as rows of results.csv."""

from collections.abc import Mapping, Sequence
from typing import Any

from matformer_lab.evaluation.score import Metric
from matformer_lab.slicing.sizes import SizedPlan


def result_rows(
    sized: SizedPlan, metrics: Sequence[Metric], primary: str, settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The rows of one slice on one task of the recipe.

    Args:
        sized: The slice.
        metrics: What it scored, one row each.
        primary: The name of the metric to plot.
        settings: Columns that are the same for the whole sweep.
    """
    own = [metric for metric in metrics if metric.group is None]
    # A task with several answer filters has metrics named `metric,filter`: the first one counts.
    plotted = next((metric for metric in own if metric.metric == primary), None) or next(
        (metric for metric in own if metric.metric.startswith(f"{primary},")), None
    )
    return [
        {
            "slice": sized.name,
            "effective_params": sized.sizes.effective,
            "total_params": sized.sizes.total,
            "task": metric.task,
            "metric": metric.metric,
            "value": metric.value,
            "stderr": metric.stderr,
            "n": metric.n,
            "num_fewshot": metric.num_fewshot,
            "group": metric.group,
            "primary": metric is plotted,
            "higher_is_better": metric.higher_is_better,
            "text_params": sized.sizes.text,
            "bytes": sized.sizes.nbytes,
            "task_version": metric.version,
            **settings,
        }
        for metric in metrics
    ]
