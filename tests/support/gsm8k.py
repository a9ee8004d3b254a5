"""A few made-up items in the real format of `openai/gsm8k`, which lm-eval's own task reads."""

from collections.abc import Sequence
from pathlib import Path

import datasets

README = """---
configs:
- config_name: main
  data_files:
  - split: train
    path: main/train-*
  - split: test
    path: main/test-*
---
"""


def write_gsm8k(folder: Path, answers: Sequence[str], *, train: int = 8) -> Path:
    """Write `folder/openai/gsm8k`, with as many test items as `answers`; returns `folder`."""
    target = folder / "openai" / "gsm8k"
    (target / "main").mkdir(parents=True)
    (target / "README.md").write_text(README)

    def item(number: int, answer: str) -> dict[str, str]:
        return {
            "question": f"Ann has {number} cats and {number + 1} dogs. How many are there?",
            "answer": f"There are <<{number}+{number + 1}={answer}>>{answer} of them.\n#### {answer}",
        }

    splits = {
        "train": [item(number, str(2 * number + 1)) for number in range(1, train + 1)],
        "test": [item(50 + number, answer) for number, answer in enumerate(answers)],
    }
    for name, items in splits.items():
        file = target / "main" / f"{name}-00000-of-00001.parquet"
        datasets.Dataset.from_list(items).to_parquet(str(file))
    return folder
