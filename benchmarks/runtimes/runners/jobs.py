"""What every runner does: logits for a list of jobs, each tried by itself.

`python run_RUNTIME.py JOBS.json`, of the form `{"tokens": [...], "jobs": [{"folder", "out",
"cache"}]}`. Logits go to `out` as .npy. A line of JSON on stdout says the version, then one for
each job what went wrong, or null. This file imports nothing but the standard library and numpy.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def run_jobs(version: str, logits_of: Callable[[str, list[int], bool], Any]) -> None:
    """Run the jobs of the command line.

    Args:
        version: The runtime's.
        logits_of: Takes a folder, tokens and whether to use a cache; returns logits [token, word].
    """
    given = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps({"version": version}), flush=True)
    for job in given["jobs"]:
        try:
            logits = logits_of(job["folder"], given["tokens"], job["cache"])
            np.save(job["out"], np.asarray(logits, dtype=np.float32))
            error = None
        except Exception as problem:  # whatever a runtime raises is its answer
            error = " ".join(f"{type(problem).__name__}: {problem}".split())[:300]
        print(json.dumps({"error": error}), flush=True)
