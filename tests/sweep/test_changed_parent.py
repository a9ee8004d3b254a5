"""A parent whose bytes changed is another parent: no old score is taken for it.

The changes are those that a fingerprint of samples did not see: between 64 windows of 4 KiB, under
the old size and modification time.
"""

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from matformer_lab import tiny
from matformer_lab.parent.folder import read_layout
from matformer_lab.results.load import load_results
from matformer_lab.sweep.recipe import parse_recipe
from matformer_lab.sweep.run import dry_run, run_sweep
from tests.support.sweeps import stored

WINDOW, WINDOWS = 4096, 64
Span = tuple[int, int]


def between_the_windows(size: int) -> Iterator[Span]:
    starts = [number * (size - WINDOW) // (WINDOWS - 1) for number in range(WINDOWS)]
    for start, following in itertools.pairwise(starts):
        if start + WINDOW < following:
            yield start + WINDOW, following


def all_between(weights: Path) -> list[Span]:
    """More than half of the file; its header, at the start, stays."""
    spans = list(between_the_windows(weights.stat().st_size))
    first = min(info.offset for info in read_layout(weights.parent).values())
    return [(max(start, first), stop) for start, stop in spans if stop > first]


def query_projections(weights: Path) -> list[Span]:
    """`q_proj` of every layer, as far as it lies between the windows."""
    gaps = list(between_the_windows(weights.stat().st_size))
    return [
        (max(start, info.offset), min(stop, info.offset + info.nbytes))
        for name, info in read_layout(weights.parent).items()
        if name.endswith("q_proj.weight")
        for start, stop in gaps
        if start < info.offset + info.nbytes and info.offset < stop
    ]


def change(weights: Path, spans: list[Span]) -> None:
    """Zero these bytes in place, under the old size and time."""
    before = weights.stat()
    data = bytearray(weights.read_bytes())
    for start, stop in spans:
        data[start:stop] = bytes(stop - start)
    with weights.open("r+b") as file:
        file.write(data)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = weights.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def recipe(parent: Path) -> Any:
    return parse_recipe(
        {
            "parent": str(parent),
            "slices": ["e2b"],
            "tasks": ["tiny_boolq"],
            "limit": 20,
            "device": "cpu",
            "dtype": "float32",
        }
    )


@pytest.mark.parametrize("spans", [all_between, query_projections])
def test_a_sweep_is_stale_and_scores_the_new_bytes(
    spans: Callable[[Path], list[Span]], tmp_path: Path
) -> None:
    parent = Path(shutil.copytree(tiny.model_dir(), tmp_path / "parent"))
    (weights,) = parent.glob("*.safetensors")
    out = run_sweep(recipe(parent), tmp_path / "out", report=False)
    old = stored(out)
    assert not dry_run(recipe(parent), out).pending
    changed = spans(weights)
    assert changed
    change(weights, changed)
    (status,) = dry_run(recipe(parent), out).pending
    assert status.state == "stale" and "parent" in str(status), status
    run_sweep(recipe(parent), out, report=False)
    assert old.items() < stored(out).items()
    truth = run_sweep(recipe(parent), tmp_path / "truth", report=False)
    assert load_results(out).equals(load_results(truth))
