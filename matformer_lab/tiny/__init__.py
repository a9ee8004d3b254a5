"""The embedded parent `tiny`: a small trained MatFormer with Gemma 3n E4B's structure.

The folders hold data only: its checkpoint and three lm-eval tasks. `training/tiny/` in the
repository made them; `docs/tiny.md` says how, and how well the slices score.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any


def model_dir() -> Path:
    """The folder of the checkpoint, a `gemma3n_text`."""
    return _folder() / "model"


def tasks_dir() -> Path:
    """The folder of the tasks' YAML files, for lm-eval's `TaskManager(include_path=...)`."""
    return _folder() / "tasks"


def task_names() -> frozenset[str]:
    """The tasks and groups of `tasks_dir`: each is in a file of its name."""
    return frozenset(path.stem for path in tasks_dir().glob("*.yaml"))


def datasets_dir() -> Path:
    """The folder of the tasks' data, laid out by dataset id (`matformer_lab/tiny_boolq`, ...).

    It is what a recipe's `datasets_dir` names.
    """
    return tasks_dir() / "data"


def text_file() -> Path:
    """A text of the embedded parent's world, to compare slices with their parent on."""
    return _folder() / "text.txt"


def info() -> dict[str, Any]:
    """How the shipped weights came about: seed, training, scores by slice (`model/tiny.json`)."""
    loaded: dict[str, Any] = json.loads((model_dir() / "tiny.json").read_text(encoding="utf-8"))
    return loaded


def _folder() -> Path:
    # transformers needs a checkpoint in a real folder, so zipped installs are not supported.
    return Path(str(files(__name__)))
