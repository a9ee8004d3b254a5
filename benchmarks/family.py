"""A family of slices against extracting each alone: disk and time.

    python benchmarks/family.py PARENT SCRATCH [--slices published] [--verify]

The separate checkpoints are removed as soon as they are measured; only the family needs room.
PARENT: see full_size_parent.py.
"""

import argparse
import shutil
import statistics
from pathlib import Path

from benchmarks.measure import CLI, machine, settle, size_of, timed, warm, weights
from matformer_lab.parent.opening import open_parent
from matformer_lab.slicing.notation.catalog import resolve_slices

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
    named = [part for name in options.slices for part in ("--slice", name)]

    def together() -> float:
        shutil.rmtree(family, ignore_errors=True)
        warm(weights(options.parent))
        settle()
        run = timed([*CLI, "slice", options.parent, *named, "--out", family])
        print(f"family: {size_of(family) / 1e9:.2f} GB, {run.seconds:.1f} s", flush=True)
        return run.seconds

    def apart(name: str) -> tuple[float, int]:
        warm(weights(options.parent))
        settle()
        run = timed([*CLI, "slice", options.parent, "--slice", name, "--out", alone])
        disk = size_of(alone)
        print(f"  {name}: {disk / 1e9:.2f} GB, {run.seconds:.1f} s", flush=True)
        shutil.rmtree(alone)
        return run.seconds, disk

    # The family before, between and after the separate ones, as the machine's mood changes.
    parent = open_parent(str(options.parent))
    each = [(name, resolve_slices([name], parent)) for name in options.slices]
    # A group such as `published` by its members' names; else as given: 1/2 is named uniform-1-2.
    names = [n for name, s in each for n in ([m.name for m in s] if len(s) > 1 else [name])]
    half = len(names) // 2
    families = [together()]
    separate = [apart(name) for name in names[:half]]
    families.append(together())
    separate += [apart(name) for name in names[half:]]
    families.append(together())

    seconds, disk = (sum(column) for column in zip(*separate, strict=True))
    print(f"{len(names)} alone: {disk / 1e9:.2f} GB, {seconds:.1f} s")
    time = statistics.median(families)
    print(f"disk {size_of(family) / disk:.3f}x, time {time / seconds:.3f}x (median of 3 families)")
    if options.verify:
        check = timed([*CLI, "verify", family, "--parent", options.parent])
        print(f"all {len(names)} verified against the parent: {check.seconds:.1f} s")
    shutil.rmtree(family)
