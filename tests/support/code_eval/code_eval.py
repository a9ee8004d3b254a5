"""A stand-in for the metric `code_eval`, which lm-eval fetches from the Hub.

`evaluate.load("code_eval")` finds it where the working directory has `code_eval/code_eval.py`.
Each program is run with its test in a process of its own, and pass@1 is the share that ends well.
"""

import subprocess
import sys
from typing import Any

import datasets
import evaluate


class CodeEval(evaluate.Metric):  # type: ignore[misc]
    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        features = datasets.Features(
            {"predictions": datasets.Sequence(text), "references": text},
        )
        return evaluate.MetricInfo(
            description="pass@1", citation="", inputs_description="", features=features
        )

    def _compute(
        self, predictions: list[list[str]], references: list[str], k: list[int]
    ) -> tuple[dict[str, float], dict[int, Any]]:
        assert k == [1]
        passed = [
            [_passes(f"{program}\n{test}") for program in programs]
            for programs, test in zip(predictions, references, strict=True)
        ]
        shares = [sum(each) / len(each) for each in passed]
        return {"pass@1": sum(shares) / len(shares)}, dict(enumerate(passed))


def _passes(program: str) -> bool:
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, timeout=60, check=False
    )
    return done.returncode == 0
