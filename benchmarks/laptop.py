"""The real model's size on a CPU: time and anonymous memory by compute dtype.

    python benchmarks/laptop.py                                     # products alone
    python benchmarks/laptop.py --parent DIR --datasets DIR [--items 2] [--slices e2b]

1. A product with an FFN matrix of E4B (8192 x 2048) in float32, in float32 from weights that stay
   in bf16, and in bf16; by turns.
2. `matformer-lab sweep` on HellaSwag, 0-shot, once for each dtype; by turns. PARENT: see
   full_size_parent.py.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch.nn.functional import linear

from benchmarks.measure import CLI, machine, timed, warm, weights
from matformer_lab.live.stored_dtype import ConvertingLinear

ROWS, COLUMNS = 8192, 2048


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def products(rounds: int) -> None:
    stored = torch.randn(ROWS, COLUMNS).to(torch.bfloat16)
    whole, converting = stored.float(), ConvertingLinear(stored, torch.float32)
    print("tokens: float32, float32 over bf16 weights, bf16 (ms, median); the last two by turns")
    for tokens in (64, 256, 1024):
        inputs = torch.randn(tokens, COLUMNS)
        short = inputs.to(torch.bfloat16)
        ways: list[Callable[[], object]] = [
            partial(linear, inputs, whole),
            partial(converting, inputs),
            partial(linear, short, stored),
        ]
        for way in ways:
            way()
        taken = [[seconds(way) for way in ways] for _ in range(rounds)]
        median = [statistics.median(column) * 1e3 for column in zip(*taken, strict=True)]
        ratio = statistics.median(row[2] / row[1] for row in taken)
        times = ", ".join(f"{each:.0f}" for each in median)
        print(f"{tokens:5}: {times}; bf16 takes {ratio:.1f}x", flush=True)


def sweeps(options: argparse.Namespace, scratch: Path) -> None:
    for dtype in options.dtypes:
        recipe = {
            "parent": str(options.parent.absolute()),
            "slices": options.slices,
            "tasks": [{"name": "hellaswag", "num_fewshot": 0}],
            "datasets": str(options.datasets.absolute()),
            "dtype": dtype,
            "limit": options.items,
        }
        (scratch / f"{dtype}.yaml").write_text(json.dumps(recipe))
        warm(weights(options.parent))
        out = scratch / dtype
        run = timed([*CLI, "sweep", scratch / f"{dtype}.yaml", "--out", out])
        print(
            f"{dtype}: {run.seconds:.0f} s, {run.peak_anonymous_mb:,.0f} MB of anonymous memory",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parent", type=Path)
    parser.add_argument("--datasets", type=Path)
    parser.add_argument("--slices", nargs="+", default=["e2b"])
    parser.add_argument("--items", type=int, default=2)
    parser.add_argument("--dtypes", nargs="+", default=["auto", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(machine())
    products(options.rounds)
    if options.parent is None or options.datasets is None:
        print("no --parent and --datasets: no sweeps")
        return
    with tempfile.TemporaryDirectory() as scratch:
        sweeps(options, Path(scratch))


if __name__ == "__main__":
    main()
