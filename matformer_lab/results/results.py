"""The tables of a sweep folder: written when everything in it belongs together, and read back."""

import io
import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from matformer_lab.common.atomic import write_atomic
from matformer_lab.common.errors import InputError
from matformer_lab.evaluation.scoring import MetricRow
from matformer_lab.parent.parent import Parent
from matformer_lab.slicing.plan import Plan
from matformer_lab.slicing.sizes import Sizes

if TYPE_CHECKING:
    import pandas as pd

RESULTS_CSV: Final = "results.csv"
RESULTS_PARQUET: Final = "results.parquet"
SLICES_JSON: Final = "slices.json"
SAMPLES: Final = "samples"
RECIPE_YAML: Final = "recipe.yaml"
# Made from the tables by the report; stale as soon as the tables change.
REPORT_FILES: Final = ("report.html", "frontier.png", "frontier.svg")


@dataclass(frozen=True)
class SizedPlan:
    """A slice's plan with its sizes."""

    plan: Plan
    sizes: Sizes


def result_rows(
    sized: SizedPlan, rows: Sequence[MetricRow], metric: str, settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Rows of results.csv for one slice and recipe task; `metric` is the one to plot."""
    own = [row for row in rows if row.group is None]
    # A task whose answers are filtered in several ways has `metric,filter` rows: the first counts.
    primary = next((row for row in own if row.metric == metric), None) or next(
        (row for row in own if row.metric.startswith(f"{metric},")), None
    )
    return [
        {
            "slice": sized.plan.slice.name,
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


def slices_document(parent: Parent, sized: Sequence[SizedPlan]) -> dict[str, Any]:
    """What slices.json holds: the parent and every slice, enough to draw them without a model."""
    text = parent.text
    return {
        "parent": {
            "ref": parent.ref,
            "name": parent.name,
            "revision": parent.revision,
            "fingerprint": parent.fingerprint,
            "num_hidden_layers": text.num_hidden_layers,
            "hidden_size": text.hidden_size,
            "intermediate_size": list(text.intermediate_size),
            "layer_types": list(text.layer_types),
            "num_kv_shared_layers": text.num_kv_shared_layers,
            "activation_sparsity_pattern": list(text.activation_sparsity_pattern),
        },
        "slices": [_slice_document(one) for one in sized],
    }


def _slice_document(sized: SizedPlan) -> dict[str, Any]:
    slice_, sizes = sized.plan.slice, sized.sizes
    return {
        "name": slice_.name,
        "slug": slice_.slug,
        "digest": slice_.digest,
        "widths": list(slice_.widths),
        "skipped": list(slice_.skipped),
        "num_hidden_layers": len(slice_.widths),
        "layer_types": list(sized.plan.text.layer_types),
        "params": {"total": sizes.total, "text": sizes.text, "effective": sizes.effective},
        "bytes": sizes.nbytes,
        "published": slice_.published and slice_.published.model_dump(),
    }


def write_tables(
    folder: Path,
    *,
    rows: Sequence[Mapping[str, Any]],
    slices: Mapping[str, Any],
    recipe: str,
    samples: Iterable[tuple[str, Any]],
) -> None:
    """Write every table of a finished sweep; results.parquet comes last and means "complete".

    `samples`: (path below samples/, pyarrow Table). What an earlier sweep left in the folder goes
    first, so that no moment shows its scores beside the new recipe.
    """
    import pandas as pd

    for name in (RESULTS_PARQUET, RESULTS_CSV, *REPORT_FILES):
        (folder / name).unlink(missing_ok=True)
    written = set()
    for name, table in samples:
        path = folder / SAMPLES / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, _parquet_bytes(table))
        written.add(path)
    for path in sorted((folder / SAMPLES).glob("*/*.parquet")):
        if path not in written:
            path.unlink()
            if not any(path.parent.iterdir()):
                path.parent.rmdir()
    write_atomic(folder / SLICES_JSON, (json.dumps(slices, indent=1) + "\n").encode())
    write_atomic(folder / RECIPE_YAML, recipe.encode())
    frame = pd.DataFrame(rows)
    write_atomic(folder / RESULTS_CSV, frame.to_csv(index=False).encode())
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    write_atomic(folder / RESULTS_PARQUET, buffer.getvalue())


def load_results(folder: Path | str) -> "pd.DataFrame":
    """results.parquet of a finished sweep as a DataFrame, one row per slice, task and metric."""
    import pandas as pd

    return pd.read_parquet(_complete(Path(folder)) / RESULTS_PARQUET)


def score_rows(folder: Path) -> list[tuple[str, ...]]:
    """A finished sweep's scores, a head and one row a slice: percent +- one standard error."""
    results = load_results(folder)
    shown = results[results["primary"]].to_dict("records")
    tasks = list(dict.fromkeys((row["task"], row["metric"]) for row in shown))
    cells = {(row["slice"], row["task"], row["metric"]): row for row in shown}
    rows: list[tuple[str, ...]] = [("slice", "effective", *(f"{t} {m}" for t, m in tasks))]
    for name, effective in dict.fromkeys((row["slice"], row["effective_params"]) for row in shown):
        scores = [cells.get((name, task, metric)) for task, metric in tasks]
        rows.append((name, f"{effective:,}", *(_score(row) for row in scores)))
    return rows


def _score(row: Mapping[Hashable, Any] | None) -> str:
    if row is None:
        return ""
    if row["stderr"] is None:  # one item has no standard error
        return f"{100 * row['value']:.1f}"
    return f"{100 * row['value']:.1f} ± {100 * row['stderr']:.1f}"


def load_samples(folder: Path | str, task: str | None = None) -> "pd.DataFrame":
    """Per-item outcomes of a finished sweep: one row per slice and item (of `task`, or of all)."""
    import pandas as pd

    paths = sorted((_complete(Path(folder)) / SAMPLES).glob(f"*/{task or '*'}.parquet"))
    if not paths:
        raise InputError(f"{folder}: no samples of task {task!r} in this sweep")
    return pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)


def _complete(folder: Path) -> Path:
    if not (folder / RESULTS_PARQUET).is_file():
        raise InputError(
            f"{folder}: no finished sweep here ({RESULTS_PARQUET} is missing); "
            "`matformer-lab sweep` with the same recipe continues an unfinished one"
        )
    return folder


def _parquet_bytes(table: Any) -> bytes:
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()
