"""Logits of a checkpoint by mlx-lm: `run_mlx.py FOLDER TOKENS.json OUT.npy`.

With a cache, or `--no-cache`.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

folder, tokens, out, *options = sys.argv[1:]
print(json.dumps({"version": version("mlx-lm")}))
mx.set_default_device(mx.cpu)
model, _ = load_model(Path(folder))
ids = mx.array([json.loads(Path(tokens).read_text())])
cache = None if "--no-cache" in options else make_prompt_cache(model)
logits = model(ids, cache=cache)[0]
np.save(out, np.array(logits.astype(mx.float32)))
