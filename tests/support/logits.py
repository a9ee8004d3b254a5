"""Run by test_old_transformers.py under another transformers: logits of a text-only checkpoint."""

import sys
from typing import Any

import numpy as np
import torch
from transformers import Gemma3nForCausalLM

folder, tokens, out = sys.argv[1:]
model: Any = Gemma3nForCausalLM.from_pretrained(folder, torch_dtype=torch.float32)
model.train(False)
ids = torch.from_numpy(np.load(tokens))
with torch.no_grad():
    # Without a cache, transformers <= 4.57 does not share K/V and is wrong.
    np.save(out, model(ids, use_cache=True).logits.numpy())
    generated = model.generate(ids[:1], max_new_tokens=4, do_sample=False)
assert generated.shape[1] > ids.shape[1]
