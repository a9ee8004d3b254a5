"""Logits of a checkpoint by llama.cpp: `run_llama.py FOLDER TOKENS.json OUT.npy`.

FOLDER holds a GGUF beside the checkpoint, `f32.gguf`, which `run.py` has the converter write.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from llama_cpp import Llama

folder, tokens, out = sys.argv[1:]
print(json.dumps({"version": f"llama-cpp-python {version('llama-cpp-python')}"}), flush=True)
ids = json.loads(Path(tokens).read_text())
model = Llama(str(Path(folder, "f32.gguf")), n_ctx=64, logits_all=True, verbose=False, n_threads=2)
model.eval(ids)
np.save(out, np.array(model.scores[: len(ids)], dtype=np.float32))
