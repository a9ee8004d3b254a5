"""`matformer-lab sweep` of a small parent: one process against several, by turns.

    python benchmarks/workers.py [--recipe demo] [--limit N] [--workers 2] [--rounds 1]

A command's whole time: imports, requests, scoring, tables and the page. The two runs' tables must
be the same bytes. On a machine that does other work the ratio says little: its load is printed.
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path

from benchmarks.measure import CLI, Run, machine, timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--limit", type=int, help="items of each task; default: all")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    if options.workers < 2:
        print("skipped: this machine has one core")
        return
    print(machine(), flush=True)
    runs: dict[int, list[Run]] = {1: [], options.workers: []}
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(options.rounds):
            tables = []
            for workers, taken in runs.items():
                out = Path(scratch) / f"{number}-{workers}"
                command = [*CLI, "sweep", options.recipe, "--workers", workers, "--out", out]
                if options.limit:
                    command += ["--limit", options.limit]
                taken.append(timed(command))
                tables.append((out / "results.csv").read_bytes())
                run = taken[-1]
                print(
                    f"workers {workers}: {run.seconds:.0f} s, {run.cpu_seconds:.0f} s of CPU, "
                    f"{run.peak_anonymous_mb:,.0f} MB of anonymous memory in the main process",
                    flush=True,
                )
            assert tables[0] == tables[1], "the tables differ"
    one, several = (statistics.median(run.seconds for run in taken) for taken in runs.values())
    print(f"{one / several:.2f} times as fast with {options.workers} workers; load now:", end=" ")
    print(f"{os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
