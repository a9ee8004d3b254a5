"""Logits of a checkpoint by transformers: `run_transformers.py FOLDER TOKENS.json OUT.npy`.

With a cache, or `--no-cache`.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import Gemma3nForCausalLM

folder, tokens, out, *options = sys.argv[1:]
print(json.dumps({"version": transformers.__version__}))
model = Gemma3nForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
ids = torch.tensor([json.loads(Path(tokens).read_text())])
with torch.no_grad():
    logits = model(ids, use_cache="--no-cache" not in options).logits[0]
np.save(out, logits.float().numpy())
