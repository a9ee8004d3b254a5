"""Kills, failing disks, power cuts and mutated files, for as long as one likes: `make torture`.

    python -m tests.torture --minutes 60 --seed 1 [--groups readers files faults] [--only KIND]

Every input must end in a result that is right (compared with the truth of what was not mutated) or
in an error of a line or two, exit code 1 or 2; never in a traceback, and never in a wrong result
that looks right. Prints a scoreboard; exit code 1 where something was found, which is kept in
`torture-found/`. The same seed draws the same inputs, of which there are as many as there is time.
"""

import argparse
import logging
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Final

import pytest

from matformer_lab.common.errors import InputError
from tests.support.mutations import MEMORY
from tests.torture.kinds import REFUSED, RIGHT, Kind

GROUPS: Final = ("readers", "files", "faults")
FOUND: Final = Path("torture-found")


def torture(minutes: float, seed: int, groups: Sequence[str], only: str) -> list[Kind]:
    """Try inputs of every kind in turn until the time is over, or until Ctrl-C."""
    logging.disable()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=MEMORY)))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("MATFORMER_LAB_CACHE", str(scratch / "cache"))
        kinds = [kind for kind in _kinds(scratch, groups, patch) if only in kind.name]
        end = time.monotonic() + 60 * minutes
        with suppress(KeyboardInterrupt):
            while time.monotonic() < end:
                for kind in kinds:
                    begun = time.monotonic()
                    while time.monotonic() < min(begun + 1, end):
                        _try(kind, seed, kind.seen.total())
    return kinds


def _kinds(scratch: Path, groups: Sequence[str], patch: pytest.MonkeyPatch) -> Iterator[Kind]:
    # Imported when they are needed: readers need no PyTorch, which takes seconds.
    if "readers" in groups:
        from tests.torture.alone import read_alone

        yield from read_alone(scratch)
    if {"files", "faults"} & set(groups):
        from tests.end_to_end.test_writes import keep_what_stays_the_same
        from tests.torture.faults import faults
        from tests.torture.files import Workplace, mutations

        keep_what_stays_the_same(patch)
        place = Workplace(scratch)
        yield from mutations(place) if "files" in groups else ()
        yield from faults(place) if "faults" in groups else ()


def _try(kind: Kind, seed: int, number: int) -> None:
    name = f"{seed}/{kind.name}/{number}"
    try:
        kind.seen[kind.one(Random(name))] += 1
    except InputError:
        kind.seen[REFUSED] += 1
    except Exception:
        kind.seen["found"] += 1
        FOUND.mkdir(exist_ok=True)
        note = FOUND / f"{name.replace('/', '-').replace(' ', '_').replace('*', '')}.txt"
        note.write_text(f"{name}\n\n{traceback.format_exc()}")
        print(f"found: {note}", file=sys.stderr, flush=True)


def scoreboard(kinds: list[Kind], minutes: float, seed: int) -> str:
    """The result, in Markdown."""
    rows = [
        f"| {k.name} | {k.seen.total():,} | {k.seen[RIGHT]:,} | {k.seen[REFUSED]:,} "
        f"| {k.seen['found']:,} |"
        for k in kinds
    ]
    total = sum((k.seen for k in kinds), Counter[str]())
    date = datetime.now(UTC).date().isoformat()
    return "\n".join(
        (
            f"Seed {seed}, {minutes:g} minutes, {date}.",
            "",
            "| kind | tried | right | refused in words | found |",
            "| --- | ---: | ---: | ---: | ---: |",
            *rows,
            f"| **all** | {total.total():,} | {total[RIGHT]:,} | {total[REFUSED]:,} "
            f"| {total['found']:,} |",
        )
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=GROUPS)
    parser.add_argument("--only", default="", help="kinds whose names hold this text")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    kinds = torture(asked.minutes, asked.seed, asked.groups, asked.only)
    print(scoreboard(kinds, asked.minutes, asked.seed))
    return int(any(kind.seen["found"] for kind in kinds))


if __name__ == "__main__":
    sys.exit(main())
