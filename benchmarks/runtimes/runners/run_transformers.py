"""Logits of checkpoints by transformers; see `jobs.py`."""

from typing import Any

import torch
import transformers
from jobs import run_jobs
from transformers import Gemma3nForCausalLM


def logits_of(folder: str, tokens: list[int], cache: bool) -> Any:
    """By the text model, which reads the text part of a full checkpoint."""
    model = Gemma3nForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.train(False)
    with torch.no_grad():
        return model(torch.tensor([tokens]), use_cache=cache).logits[0].float().numpy()


run_jobs(transformers.__version__, logits_of)
