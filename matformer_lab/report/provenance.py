"""How a sweep was made, in words: commands and versions."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from matformer_lab.results.sweep_results import SweepResults


def commands(sweep: SweepResults) -> str:
    """The shell commands that run the sweep again, with the versions it was run with."""
    versions = {key.rsplit(".", 1)[-1]: value for key, value in flattened(sweep.provenance)}
    pins = [
        f"{package}=={versions[key].partition('+')[0]}"  # an index has no local versions, +cpu
        for package, key in (
            ("matformer-lab", "matformer_lab"),
            ("torch", "torch"),
            ("transformers", "transformers"),
            ("lm-eval", "lm_eval"),
        )
        if key in versions
    ]
    out = shlex.quote(sweep.folder.resolve().name)
    lines = [f"pip install {' '.join(map(shlex.quote, pins))}"] if pins else []
    lines += [f"matformer-lab sweep recipe.yaml --out {out}", f"matformer-lab report {out}"]
    return "\n".join(lines)


def flattened(value: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """The leaves of nested mappings as text, under dotted keys."""
    for key, entry in value.items():
        if isinstance(entry, Mapping):
            yield from flattened(entry, f"{prefix}{key}.")
        elif isinstance(entry, list | tuple):
            yield f"{prefix}{key}", ", ".join(str(part) for part in entry)
        elif entry is not None:
            yield f"{prefix}{key}", str(entry)
