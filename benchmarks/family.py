"""A family of slices against extracting each alone: disk and time.

    python benchmarks/family.py PARENT SCRATCH [--slices published] [--verify]

The separate checkpoints are removed as soon as they are measured; only the family needs room.
PARENT: see full_size_parent.py.
"""

import argparse
import shutil
from pathlib import Path

from measure import CLI, machine, size_of, timed, warm, weights

from matformer_lab.catalog import resolve_slices
from matformer_lab.parent import open_parent

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parent", type=Path)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--slices", nargs="+", default=["published"])
    parser.add_argument("--verify", action="store_true", help="verify every member afterwards")
    options = parser.parse_args()
    options.scratch.mkdir(parents=True, exist_ok=True)
    print(machine())

    family, alone = options.scratch / "family", options.scratch / "alone"
    warm(weights(options.parent))
    named = [part for name in options.slices for part in ("--slice", name)]
    together = timed([*CLI, "slice", options.parent, *named, "--out", family])
    disk = size_of(family)
    print(f"family: {disk / 1e9:.2f} GB, {together.seconds:.1f} s")

    seconds = apart = 0.0
    slices = resolve_slices(options.slices, open_parent(str(options.parent)).text)
    for slice_ in slices:
        warm(weights(options.parent))
        run = timed([*CLI, "slice", options.parent, "--slice", slice_.name, "--out", alone])
        seconds, apart = seconds + run.seconds, apart + size_of(alone)
        print(f"  {slice_.name}: {size_of(alone) / 1e9:.2f} GB, {run.seconds:.1f} s", flush=True)
        shutil.rmtree(alone)
    print(f"{len(slices)} alone: {apart / 1e9:.2f} GB, {seconds:.1f} s")
    print(f"disk {disk / apart:.3f}x, time {together.seconds / seconds:.3f}x")
    if options.verify:
        check = timed([*CLI, "verify", family, "--parent", options.parent])
        print(f"all {len(slices)} verified against the parent: {check.seconds:.1f} s")
    shutil.rmtree(family)
