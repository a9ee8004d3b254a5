"""The figures of a finished sweep over the embedded parent: scores, paired differences, mixes."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

TASKS = {"tiny_hellaswag": "acc_norm", "tiny_boolq": "acc", "tiny_mmlu": "acc"}
CHANCE = {"tiny_hellaswag": 0.25, "tiny_boolq": 0.5, "tiny_mmlu": 0.25}
NESTED = ("uniform-1-8", "uniform-1-4", "uniform-1-2", "e4b")
CARD = (*NESTED[:3], "e2b", "e4b")


class Sweep:
    """Results of one sweep folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.table = pd.read_csv(folder / "results.csv")

    def outcomes(self, name: str, task: str) -> pd.Series:
        """0 or 1 for every item, by item."""
        samples = pd.read_parquet(self.folder / "samples" / name / f"{task}.parquet")
        return samples.set_index(["subtask", "doc_id"])[TASKS[task]].astype(float)

    def size(self, name: str) -> int:
        """Effective parameters."""
        return int(self.table[self.table.slice == name].effective_params.iloc[0])

    def score(self, name: str, task: str) -> dict[str, Any]:
        values = self.outcomes(name, task)
        stderr = float(values.std(ddof=1)) / math.sqrt(len(values))
        return {
            "value": round(float(values.mean()), 4),
            "stderr": round(stderr, 4),
            "n": len(values),
        }

    def scores(self) -> dict[str, dict[str, dict[str, Any]]]:
        return {name: {task: self.score(name, task) for task in TASKS} for name in CARD}

    def paired(self, large: str, small: str, task: str) -> tuple[float, float]:
        """Mean difference on the same items, and the same in its own standard errors."""
        difference = self.outcomes(large, task) - self.outcomes(small, task)
        mean = float(difference.mean())
        stderr = float(difference.std(ddof=1)) / math.sqrt(len(difference))
        return mean, mean / stderr if stderr else 0.0

    def off_the_line(self, name: str, task: str, ends: tuple[str, ...]) -> float:
        """How far a slice lies above the line through `ends` at its size, in points."""
        sizes = [self.size(nested) for nested in ends]
        scores = [self.score(nested, task)["value"] for nested in ends]
        line = float(np.interp(self.size(name), sizes, scores))
        return 100 * (float(self.score(name, task)["value"]) - line)

    def report(self) -> str:
        """Everything the frontier was asked for, as text."""
        names = sorted(self.table.slice.unique(), key=self.size)
        mixes = [name for name in names if name.startswith("mix-")]
        lines = []
        for task in TASKS:
            lines.append(f"{task} (chance {100 * CHANCE[task]:.0f})")
            for name in names:
                score = self.score(name, task)
                lines.append(
                    f"  {name:14s} {self.size(name):8,d} {100 * score['value']:6.1f} "
                    f"+- {196 * score['stderr']:.1f}, off the line 1/8 to 1 "
                    f"{self.off_the_line(name, task, (NESTED[0], NESTED[-1])):+5.1f}, "
                    f"1/8 to 1/4 to 1/2 to 1 {self.off_the_line(name, task, NESTED):+5.1f}"
                )
            for small, large in [*pairwise(NESTED), (NESTED[0], NESTED[-1])]:
                mean, errors = self.paired(large, small, task)
                lines.append(
                    f"  {large} less {small}: {100 * mean:+.1f} points, {errors:.1f} paired SE"
                )
            for ends in ((NESTED[0], NESTED[-1]), NESTED):
                off = [self.off_the_line(name, task, ends) for name in mixes]
                lines.append(
                    f"  random mixes off the line through {len(ends)} nested widths: mean "
                    f"{np.mean(off):+.1f}, mean distance {np.mean(np.abs(off)):.1f}"
                )
        return "\n".join(lines)
