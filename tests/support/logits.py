"""Run by test_old_transformers.py under another transformers: logits of text-only checkpoints."""

import sys
from typing import Any

import numpy as np
import torch
from transformers import Gemma3nForCausalLM

tokens, out, *folders = sys.argv[1:]
ids = torch.from_numpy(np.load(tokens))
found = {}
for folder in folders:
    model: Any = Gemma3nForCausalLM.from_pretrained(folder, torch_dtype=torch.float32)
    model.train(False)
    with torch.no_grad():
        # Without a cache, transformers <= 4.57 does not share K/V and is wrong.
        found[folder] = model(ids, use_cache=True).logits.numpy()
        generated = model.generate(ids[:1], max_new_tokens=4, do_sample=False)
    assert generated.shape[1] > ids.shape[1]
np.savez(out, **found)
