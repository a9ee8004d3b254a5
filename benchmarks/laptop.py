"""The real model's size on a CPU: time and anonymous memory against what was there before.

    python benchmarks/laptop.py                                     # products alone
    python benchmarks/laptop.py --parent DIR --datasets DIR [--before CHECKOUT] [--scratch DIR]

1. A product with an FFN matrix of E4B (8192 x 2048) in float32, in float32 from weights that stay
   in bf16, and in bf16; by turns.
2. `matformer-lab sweep` of e2b on HellaSwag, 0-shot, with `dtype: auto`; with CHECKOUT (another
   commit of this repository) also its sweep in bfloat16 and in float32, by turns.
3. Four published slices against one of them.
4. The same under a cgroup's limit (Linux, root): half the bytes of the slice's text checkpoint.
5. HellaSwag, 10-shot, against lm-eval's HFLM in float32 on the extracted text-only e2b.

PARENT: see full_size_parent.py; give it a tokenizer's files. `--only` runs some of 2 to 5.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch.nn.functional import linear

from benchmarks.measure import CLI, Run, evict, machine, timed, warm, weights
from matformer_lab.live.stored_dtype import ConvertingLinear
from matformer_lab.parent.opening import open_parent
from matformer_lab.slicing.notation.catalog import resolve_slice
from matformer_lab.slicing.plan import make_plan
from matformer_lab.slicing.sizes import sizes_of

ROWS, COLUMNS = 8192, 2048
FREE_BYTES = 10 * 10**9
"""On the scratch disk: e2b's text-only checkpoint, with room to spare."""

FOUR_SLICES = ["e2b", "e2.54b-layer", "e2.98b-layer", "e4b"]
WAYS = ("before", "slices", "memory", "hflm")


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


class Sweeps:
    """Sweeps of one parent on HellaSwag, each in a fresh process and a fresh folder."""

    def __init__(self, options: argparse.Namespace, scratch: Path) -> None:
        self._options, self._scratch, self._runs = options, scratch, 0

    def run(
        self,
        slices: list[str],
        dtype: str = "auto",
        *,
        num_fewshot: int = 0,
        checkout: Path | None = None,
        memory_limit: int | None = None,
    ) -> Run:
        self._runs += 1
        recipe = {
            "parent": str(self._options.parent.absolute()),
            "slices": slices,
            "tasks": [{"name": "hellaswag", "num_fewshot": num_fewshot}],
            "datasets": str(self._options.datasets.absolute()),
            "dtype": dtype,
            "limit": self._options.items,
        }
        path = self._scratch / f"{self._runs}.yaml"
        path.write_text(json.dumps(recipe))
        files = weights(self._options.parent)
        if memory_limit is None:
            warm(files)
        else:
            evict(files)
        return timed(
            [*CLI, "sweep", path, "--out", self._scratch / str(self._runs)],
            cwd=checkout,
            env=os.environ | {"PYTHONPATH": str(checkout or Path.cwd())},
            preexec_fn=None if memory_limit is None else partial(confine, memory_limit),
        )


def confine(memory_limit: int) -> None:
    """Move this process into a memory cgroup of its own (version 2, else 1)."""
    root = Path("/sys/fs/cgroup")
    second = (root / "cgroup.controllers").exists()
    group = root / ("matformer-lab" if second else "memory/matformer-lab")
    group.mkdir(exist_ok=True)
    limit = group / ("memory.max" if second else "memory.limit_in_bytes")
    limit.write_text(str(memory_limit))
    (group / "cgroup.procs").write_text(str(os.getpid()))


def show(name: str, run: Run) -> None:
    print(f"{name}: {run.seconds:.0f} s, {run.peak_anonymous_mb:,.0f} MB anonymous", flush=True)


def against_before(sweeps: Sweeps, options: argparse.Namespace) -> None:
    ways = {"auto": partial(sweeps.run, ["e2b"])}
    if options.before is not None:
        checkout = options.before.absolute()
        for dtype in ("float32", "bfloat16"):
            ways[f"{dtype}, before"] = partial(sweeps.run, ["e2b"], dtype, checkout=checkout)
    for _ in range(options.turns):
        for name, way in ways.items():
            show(f"e2b, 0-shot, {name}", way())


def four_against_one(sweeps: Sweeps, options: argparse.Namespace) -> None:
    for _ in range(options.turns):
        one, four = sweeps.run(FOUR_SLICES[-1:]), sweeps.run(FOUR_SLICES)
        show("e4b", one)
        show(f"{len(FOUR_SLICES)} slices", four)
        print(
            f"  {four.seconds / one.seconds:.2f}x the time, "
            f"{four.peak_anonymous_mb / one.peak_anonymous_mb:.2f}x the memory"
        )


def half_the_memory(sweeps: Sweeps, options: argparse.Namespace) -> None:
    parent = open_parent(str(options.parent))
    plan = make_plan(parent, resolve_slice("e2b", parent), text_only=True)
    limit = sizes_of(plan).nbytes // 2
    for _ in range(options.turns):
        roomy, tight = sweeps.run(["e2b"]), sweeps.run(["e2b"], memory_limit=limit)
        show("e2b, all of the memory", roomy)
        show(f"e2b, {limit / 1e9:.1f} GB of memory, nothing in the page cache", tight)
        print(f"  {tight.seconds / roomy.seconds:.2f}x the time")


def against_hflm(sweeps: Sweeps, options: argparse.Namespace, scratch: Path) -> None:
    if shutil.disk_usage(scratch).free < FREE_BYTES:
        print(f"no HFLM: {scratch} has less than {FREE_BYTES / 1e9:.0f} GB free")
        return
    child = scratch / "e2b"
    timed([*CLI, "slice", options.parent, "--slice", "e2b", "--text-only", "--out", child])
    ours = sweeps.run(["e2b"], num_fewshot=10)
    show("e2b, 10-shot, this package", ours)
    warm(weights(child))
    theirs = timed(
        [
            *(sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--device", "cpu"),
            *("--model_args", f"pretrained={child.absolute()},dtype=float32,add_bos_token=True"),
            *("--tasks", "hellaswag", "--num_fewshot", "10"),
            *("--limit", options.items, "--batch_size", "1"),  # 8 rows' logits are 9 GB
        ],
        cwd=options.datasets,  # where "Rowan/hellaswag" is a folder
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    show("e2b, 10-shot, HFLM in float32", theirs)
    print(
        f"  {theirs.seconds / ours.seconds:.1f}x the time, "
        f"{theirs.peak_anonymous_mb / ours.peak_anonymous_mb:.1f}x the memory"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parent", type=Path)
    parser.add_argument("--datasets", type=Path)
    parser.add_argument("--before", type=Path, help="a checkout of an earlier commit")
    parser.add_argument("--scratch", type=Path, help="where 10 GB may lie for the time of the run")
    parser.add_argument("--items", type=int, default=2)
    parser.add_argument("--turns", type=int, default=1, help="of each comparison of sweeps")
    parser.add_argument("--rounds", type=int, default=5, help="of the products")
    parser.add_argument("--only", nargs="+", choices=WAYS, default=WAYS)
    options = parser.parse_args()
    print(machine())
    products(options.rounds)
    if options.parent is None or options.datasets is None:
        print("no --parent and --datasets: no sweeps")
        return
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        scratch = Path(folder)
        sweeps = Sweeps(options, scratch)
        if "before" in options.only:
            against_before(sweeps, options)
        if "slices" in options.only:
            four_against_one(sweeps, options)
        if "memory" in options.only:
            half_the_memory(sweeps, options)
        if "hflm" in options.only:
            against_hflm(sweeps, options, scratch)


if __name__ == "__main__":
    main()
