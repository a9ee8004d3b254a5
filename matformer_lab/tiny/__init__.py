"""The embedded parent: a small trained MatFormer with Gemma 3n E4B's structure, and its three
lm-eval tasks.

The folders hold data only. `training/tiny/` in the repository made them; `docs/tiny.md` says how
well that worked.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any


def model_dir() -> Path:
    """The `gemma3n_text` checkpoint folder."""
    return _folder() / "model"


def tasks_dir() -> Path:
    """The folder of task YAML files, for lm-eval's `TaskManager(include_path=...)`."""
    return _folder() / "tasks"


def datasets_dir() -> Path:
    """The tasks' data by dataset id (`matformer_lab/tiny_boolq`, ...), as sweeps map ids."""
    return tasks_dir() / "data"


def info() -> dict[str, Any]:
    """What the shipped weights are: seed, training, scores by slice."""
    loaded: dict[str, Any] = json.loads((model_dir() / "tiny.json").read_text(encoding="utf-8"))
    return loaded


def _folder() -> Path:
    # A checkpoint has to lie in a real folder for transformers, so this is not for zipped installs
    return Path(str(files(__name__)))
