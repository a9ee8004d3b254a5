"""Logits of checkpoints by llama.cpp; see `jobs.py`.

A folder holds a GGUF beside the checkpoint, `f32.gguf`, which `run.py` has the converter write.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

from jobs import run_jobs
from llama_cpp import Llama


def logits_of(folder: str, tokens: list[int], cache: bool) -> Any:
    """Of every token; there is always a cache."""
    del cache
    path = str(Path(folder, "f32.gguf"))
    model = Llama(path, n_ctx=64, logits_all=True, verbose=False, n_threads=2)
    model.eval(tokens)
    return model.scores[: len(tokens)]


run_jobs(f"llama-cpp-python {version('llama-cpp-python')}", logits_of)
