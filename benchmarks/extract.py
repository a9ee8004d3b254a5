"""Extraction against `cp` of the same bytes, `verify` against reading both once, `plan`.

    python benchmarks/extract.py PARENT SCRATCH [--slice e2b] [--runs 5]

Side by side: every run extracts with the parent in the page cache, then copies the extracted
weights with them in the page cache. `cp` stops at the page cache; a checkpoint gets its name only
when it is on the disk, so `cp` followed by `sync` of the copy is timed too. PARENT: see
full_size_parent.py.
"""

import argparse
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import CLI, ORDINARY_CLI, evict, machine, settle, timed, warm, weights


def one_run(
    cli: list[str], parent: Path, scratch: Path, slice_: str, shard_size: str
) -> dict[str, float]:
    out, copy = scratch / "child", scratch / "copy"
    for folder in (out, copy):
        shutil.rmtree(folder, ignore_errors=True)
    warm(weights(parent))
    settle()
    options = ["--slice", slice_, "--max-shard-size", shard_size]
    ours = timed([*cli, "slice", parent, *options, "--out", out])
    evict(weights(parent))
    warm(weights(out))
    copy.mkdir()
    settle()
    cp = timed(["cp", *weights(out), copy])
    sync = timed(["sync", *weights(copy)])
    shutil.rmtree(copy)
    return {
        "slice s": ours.seconds,
        "slice cpu s": ours.cpu_seconds,
        "cp s": cp.seconds,
        "cp cpu s": cp.cpu_seconds,
        "cp+sync s": cp.seconds + sync.seconds,
        "slice/cp": ours.seconds / cp.seconds,
        "slice/(cp+sync)": ours.seconds / (cp.seconds + sync.seconds),
        "RssAnon MB": ours.peak_anonymous_mb,
    }


def verify_run(cli: list[str], parent: Path, scratch: Path) -> dict[str, float]:
    both = [*weights(parent), *weights(scratch / "child")]
    evict(both)
    reading = timed(["cat", *both])
    evict(both)
    verify = timed([*cli, "verify", scratch / "child", "--parent", parent])
    return {
        "read both s": reading.seconds,
        "verify s": verify.seconds,
        "verify/read": verify.seconds / reading.seconds,
        "verify RssAnon MB": verify.peak_anonymous_mb,
    }


def medians(run: Callable[[], dict[str, float]], times: int) -> None:
    runs = []
    for _ in range(times):
        runs.append(run())
        print("  " + ", ".join(f"{k} {v:.2f}" for k, v in runs[-1].items()), flush=True)
    for name in runs[0]:
        print(f"{name:>18} {statistics.median(run[name] for run in runs):8.2f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parent", type=Path)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--slice", default="e2b")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--shard-size", default="5GB")
    parser.add_argument("--ordinary-writes", action="store_true", help="as where O_DIRECT is not")
    parser.add_argument("--no-verify", action="store_true")
    options = parser.parse_args()
    cli = ORDINARY_CLI if options.ordinary_writes else CLI
    options.scratch.mkdir(parents=True, exist_ok=True)
    print(machine())
    medians(
        lambda: one_run(cli, options.parent, options.scratch, options.slice, options.shard_size),
        options.runs,
    )
    if not options.no_verify:
        medians(lambda: verify_run(cli, options.parent, options.scratch), min(3, options.runs))
    plans = [timed([*cli, "plan", options.parent, "--slice", options.slice]) for _ in range(5)]
    print(f"{'plan s':>18} {statistics.median(run.seconds for run in plans):8.2f}")
    shutil.rmtree(options.scratch / "child")
