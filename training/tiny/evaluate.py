"""Scores of real slices on the three tasks: cut by `check.stock`, loaded by transformers, scored by
lm-eval's own HFLM.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import Gemma3nForCausalLM, PreTrainedTokenizerFast

TASKS = {"tiny_hellaswag": "acc_norm", "tiny_boolq": "acc", "tiny_mmlu": "acc"}
CHANCE = {"tiny_hellaswag": 0.25, "tiny_boolq": 0.5, "tiny_mmlu": 0.25}
Outcomes = dict[str, NDArray[np.float64]]


class Scorer:
    """Loads the tasks once and scores models on them."""

    def __init__(self, model_dir: Path, tasks_dir: Path, limit: int | None) -> None:
        os.environ["HF_HUB_OFFLINE"] = "1"
        from lm_eval.tasks import TaskManager

        self.data, self.limit = tasks_dir / "data", limit
        self.manager = TaskManager(include_path=str(tasks_dir), include_defaults=False)
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(model_dir)

    def score(self, model: Gemma3nForCausalLM, batch: int = 32) -> Outcomes:
        """1.0 or 0.0 for every item of every task, in the tasks' own order."""
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        before = Path.cwd()
        # Dataset ids are found as folders from here
        os.chdir(self.data)
        try:
            lm = HFLM(
                pretrained=model,
                tokenizer=self.tokenizer,
                batch_size=batch,
                add_bos_token=True,
                device="cpu",
            )
            results: dict[str, Any] = simple_evaluate(
                model=lm,
                tasks=list(TASKS),
                task_manager=self.manager,
                limit=self.limit,
                log_samples=True,
                bootstrap_iters=0,
                verbosity="ERROR",
            )
        finally:
            os.chdir(before)
        outcomes = {}
        for task, metric in TASKS.items():
            names = sorted(n for n in results["samples"] if n == task or n.startswith(task + "_"))
            samples = [s for n in names for s in results["samples"][n]]
            outcomes[task] = np.array([float(s[metric]) for s in samples])
        return outcomes


def summary(values: NDArray[np.float64]) -> dict[str, float]:
    """Mean, standard error and 95 % interval of 0/1 outcomes."""
    mean, n = float(values.mean()), len(values)
    stderr = float(values.std(ddof=1)) / math.sqrt(n)
    low, high = mean - 1.96 * stderr, mean + 1.96 * stderr
    return {
        "value": round(mean, 4),
        "stderr": round(stderr, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "n": n,
    }


def paired(better: NDArray[np.float64], worse: NDArray[np.float64]) -> tuple[float, float]:
    """Mean difference on the same items, and that difference in standard errors of it."""
    difference = better - worse
    stderr = float(difference.std(ddof=1)) / math.sqrt(len(difference))
    mean = float(difference.mean())
    return mean, mean / stderr if stderr else 0.0
