"""Scores and slices as rows of a sweep's tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from matformer_lab.evaluation.score import Metric
from matformer_lab.slicing.sizes import SizedPlan


def result_rows(
    sized: SizedPlan, rows: Sequence[Metric], metric: str, settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Rows of results.csv for one slice and recipe task; `metric` is the one to plot."""
    own = [row for row in rows if row.group is None]
    # A task whose answers are filtered in several ways has `metric,filter` rows: the first counts.
    primary = next((row for row in own if row.metric == metric), None) or next(
        (row for row in own if row.metric.startswith(f"{metric},")), None
    )
    return [
        {
            "slice": sized.name,
            "effective_params": sized.sizes.effective,
            "total_params": sized.sizes.total,
            "task": row.task,
            "metric": row.metric,
            "value": row.value,
            "stderr": row.stderr,
            "n": row.n,
            "num_fewshot": row.num_fewshot,
            "group": row.group,
            "primary": row is primary,
            "higher_is_better": row.higher_is_better,
            "text_params": sized.sizes.text,
            "bytes": sized.sizes.nbytes,
            "task_version": row.version,
            **settings,
        }
        for row in rows
    ]
