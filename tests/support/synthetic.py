"""Sweep folders made up from a known truth, for testing what reads them.

Items are Bernoulli trials with a difficulty of their own: a slice answers right when its skill plus
the item's ease plus a little private noise is positive, so that slices agree on most items, as real
ones do. Sizes are those of the published slices.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from matformer_lab.slicing.slice import Slice

LAYERS = 35
FULL, HALF = 16384, 8192
LAYER_TYPES = ["full_attention" if i % 5 == 4 else "sliding_attention" for i in range(LAYERS)]


@dataclass(frozen=True)
class Made:
    name: str
    wide: tuple[int, ...]  # layers kept at full width, the others at half
    skipped: tuple[int, ...] = ()
    label: float | None = None
    mmlu: float | None = None

    @property
    def widths(self) -> list[int]:
        kept = [i for i in range(LAYERS) if i not in self.skipped]
        return [FULL if i in self.wide else HALF for i in kept]

    @property
    def params(self) -> dict[str, int]:
        effective = 25_168_128 + len(self.widths) * 12_345_936 + 6144 * sum(self.widths)
        text = effective + 537_395_200 + 67_108_864 * len(self.widths)
        return {"total": text + 983_281_504, "text": text, "effective": effective}


def _span(*parts: tuple[int, int] | int) -> tuple[int, ...]:
    layers: list[int] = []
    for part in parts:
        layers += [part] if isinstance(part, int) else range(part[0], part[1] + 1)
    return tuple(layers)


SLICES = (
    Made("e4b", _span((0, 34)), (), 3.98, 62.3),
    Made("e2b", (), _span((20, 24)), 1.91, 50.9),
    Made("e1.96b-layer", (4,), _span((20, 24)), 1.96, 53.4),
    Made("e2.54b-layer", _span(4, (20, 24)), (), 2.54, 55.4),
    Made("e2.69b-layer", _span(4, 9, 14, (19, 24)), (), 2.69, 57.7),
    Made("e2.98b-layer", _span((15, 24), (30, 34)), (), 2.98, 59.5),
    Made("e3.18b-layer", _span(4, (9, 24), 29, 34), (), 3.18, 61.8),
    Made("e3.39b-layer", _span(4, (9, 29), 34), (), 3.39, 63.0),
    Made("e3.59b-layer", _span((4, 29), 34), (), 3.59, 63.4),
    Made("e3.79b-layer", _span((4, 34)), (), 3.79, 63.4),
    Made("e2.49b-block", _span((20, 24)), (), 2.49, 54.5),
    Made("e2.73b-block", _span((15, 24)), (), 2.73, 57.1),
    Made("e2.98b-block", _span((10, 24)), (), 2.98, 59.5),
    Made("e3.24b-block", _span((10, 29)), (), 3.24, 60.7),
    Made("e3.49b-block", _span((5, 29)), (), 3.49, 61.4),
    Made("e3.79b-block", _span((5, 34)), (), 3.74, 62.0),
)


@dataclass(frozen=True)
class Task:
    name: str
    metric: str
    subjects: dict[str, int]
    num_fewshot: int
    ease: float
    slope: float


def tasks(scale: float = 1.0) -> tuple[Task, ...]:
    """HellaSwag, BoolQ and MMLU with their real numbers of items, times `scale`."""
    rng = np.random.default_rng(5)
    sizes = rng.multinomial(14_042 - 57 * 100, [1 / 57] * 57) + 100
    mmlu = {f"mmlu_subject_{i:02d}": max(2, round(int(n) * scale)) for i, n in enumerate(sizes)}
    return (
        Task("hellaswag", "acc_norm", {"": round(10_042 * scale)}, 10, 1.9, 0.55),
        Task("boolq", "acc", {"": round(3_270 * scale)}, 0, 2.2, 0.6),
        Task("mmlu", "acc", mmlu, 5, 0.6, 1.0),
    )


def outcomes(
    task: Task, skills: list[float], rng: np.random.Generator
) -> tuple[np.ndarray, list[str]]:
    """0/1 outcomes (slices, items) and the subject of each item."""
    subjects = [name for name, n in task.subjects.items() for _ in range(n)]
    shift = {name: rng.normal(0, 0.6) for name in task.subjects}
    ease = rng.logistic(task.ease, 1.6, len(subjects)) + np.array([shift[s] for s in subjects])
    private = rng.logistic(0, 0.35, (len(skills), len(subjects)))
    return (task.slope * np.array(skills)[:, None] + ease + private > 0).astype(int), subjects


def _result(
    made: Made, task: Task, name: str, values: np.ndarray, group: str | None, shrink: int
) -> dict[str, object]:
    n = len(values)
    return {
        "slice": made.name,
        "effective_params": made.params["effective"] // shrink,
        "total_params": made.params["total"] // shrink,
        "task": name,
        "metric": task.metric,
        "value": float(values.mean()),
        "stderr": float(values.std(ddof=1) / np.sqrt(n)) if n > 1 else 0.0,
        "n": n,
        "num_fewshot": task.num_fewshot,
        "group": group,
        "primary": group is None,
        "higher_is_better": True,
    }


def write_results(folder: Path, results: pd.DataFrame) -> None:
    """Both files of a sweep's results, which say the same."""
    results.to_csv(folder / "results.csv", index=False)
    results.to_parquet(folder / "results.parquet")


def write_sweep(
    folder: Path,
    *,
    slices: tuple[Made, ...] = SLICES,
    scale: float = 0.05,
    seed: int = 1,
    drop: dict[str, float] | None = None,
    noise: float = 0.0,
    parent: str = "google/gemma-3n-E4B",
    shrink: int = 1,
) -> Path:
    """A finished sweep folder.

    `drop` lowers the skill of slices; `noise` flips that share of outcomes; `shrink` divides sizes
    (a miniature parent).
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rows: list[dict[str, object]] = []
    chosen = tasks(scale)
    for task in chosen:
        skills = [((m.mmlu or 55.0) - 60) / 9 - (drop or {}).get(m.name, 0.0) for m in slices]
        table, subjects = outcomes(task, skills, rng)
        flip = np.random.default_rng(seed + 99).random(table.shape) < noise
        table = np.where(flip, 1 - table, table)
        docs = (
            pd.Series(subjects).groupby(subjects).cumcount()
            if len(task.subjects) > 1
            else range(len(subjects))
        )
        for made, row in zip(slices, table, strict=True):
            frame = pd.DataFrame(
                {
                    "slice": made.name,
                    "task": task.name,
                    "subtask": subjects if len(task.subjects) > 1 else task.name,
                    "doc_id": list(docs),
                    task.metric: row,
                }
            )
            slug = Slice(made.name, tuple(made.widths), made.skipped).slug
            path = folder / "samples" / slug / f"{task.name}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            frame.to_parquet(path)
            rows.append(_result(made, task, task.name, row, None, shrink))
            if len(task.subjects) > 1:
                names = np.array(subjects)
                rows += [
                    _result(made, task, subject, row[names == subject], task.name, shrink)
                    for subject in task.subjects
                ]
    write_results(folder, pd.DataFrame(rows))
    described = {
        "parent": {
            "ref": parent,
            "name": parent,
            "fingerprint": "5f" * 32,
            "num_hidden_layers": LAYERS,
            "hidden_size": 2048 // shrink or 1,
            "intermediate_size": [FULL] * LAYERS,
            "layer_types": LAYER_TYPES,
            "num_kv_shared_layers": 15,
        },
        "slices": [
            {
                "name": m.name,
                "slug": m.name,
                "widths": m.widths,
                "skipped": list(m.skipped),
                "num_hidden_layers": len(m.widths),
                "params": {k: v // shrink for k, v in m.params.items()},
                "bytes": 2 * m.params["total"] // shrink,
                "published": None
                if m.label is None
                else {"effective_params_b": m.label, "mmlu": m.mmlu, "row": f"Config for {m.name}"},
            }
            for m in slices
        ],
    }
    (folder / "slices.json").write_text(json.dumps(described, indent=1))
    recipe = {
        "parent": parent,
        "slices": [m.name for m in slices],
        "tasks": [
            {"name": t.name, "num_fewshot": t.num_fewshot, "metric": t.metric} for t in chosen
        ],
        "dtype": "bfloat16",
        "limit": None,
        "seed": 1234,
        "as_run": {
            "finished": "2026-11-23T20:00:00+00:00",
            "parent": {"name": parent, "revision": None, "fingerprint": "5f" * 32},
            "tasks": {t.name: {"version": "1.0", "prompt_hash": "a0" * 32} for t in chosen},
            "versions": {
                "matformer_lab": "0.1.0",
                "python": "3.11.2",
                "lm_eval": "0.4.13",
                "torch": "2.13.0+cpu",
                "transformers": "5.23.0",
            },
        },
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return folder
