"""Logits of checkpoints by mlx-lm; see `jobs.py`."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from jobs import run_jobs
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model


def logits_of(folder: str, tokens: list[int], cache: bool) -> Any:
    """With a prompt cache, as `mlx_lm.generate`, or without, as its LoRA training."""
    model, _ = load_model(Path(folder))
    logits = model(mx.array([tokens]), cache=make_prompt_cache(model) if cache else None)[0]
    return np.array(logits.astype(mx.float32))


mx.set_default_device(mx.cpu)
run_jobs(version("mlx-lm"), logits_of)
