"""Kills, failing disks and power cuts of everything that writes."""

import errno
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from matformer_lab.common.errors import InputError
from tests.end_to_end import test_writes as writes
from tests.support.file_operations import count_operations, fail_at, kill_at, record
from tests.support.power_cut import Disk, power_cuts
from tests.torture.files import Workplace
from tests.torture.kinds import REFUSED, RIGHT, Kind


def faults(place: Workplace) -> Iterator[Kind]:
    drawn = {
        "slice": lambda b, o: writes.slice_writer(place.parent, b),
        "family": lambda b, o: writes.family_writer(place.parent, b),
        "adding to a family": lambda b, o: writes.adding_writer(place.parent, b),
        "sweep": lambda b, o: writes.sweep_writer(place.scorable, place.executor, b, old=False),
        "changed sweep": lambda b, o: writes.sweep_writer(
            place.scorable, place.executor, b, old=True
        ),
        "report": writes.report_writer_of,
        "gate --update": writes.gate_writer,
    }
    for name, make in drawn.items():
        before, other = (place.scratch / "writers" / name / part for part in ("before", "other"))
        before.mkdir(parents=True)
        other.mkdir()
        writer = make(before, other)
        new = writer.new(place.scratch)
        with writer.start(place.scratch) as root:
            steps = count_operations(root, partial(writer.work, root))
        yield from _faults_of(name, writer, new, steps, place.scratch)


def _faults_of(
    name: str, writer: writes.Writer, new: writes.Contents, steps: int, scratch: Path
) -> Iterator[Kind]:
    cuts: list[Any] = []

    def kill(random: Random) -> str:
        with writer.start(scratch) as root:
            for _ in range(random.choice((1, 1, 2, 5))):  # the next run is killed too
                step = random.randrange(steps)
                try:
                    kill_at(root, step, lambda: writer.work(root))
                except InputError as error:
                    assert "already exists" in str(error)
                writer.check(writer.result(root), new, f"killed at {step}")
            writes.finished(writer, root, new, f"killed at {step}")
        return RIGHT

    def fail(random: Random) -> str:
        error, step = random.choice((errno.ENOSPC, errno.EIO)), random.randrange(steps)
        what = f"{errno.errorcode[error]} at {step}"
        with writer.start(scratch) as root:
            answer = RIGHT
            try:
                fail_at(root, step, error, lambda: writer.work(root))
            except InputError:
                answer = REFUSED
            writer.check(writer.result(root), new, what)
            writes.finished(writer, root, new, what)
        return answer

    def cut(random: Random) -> str:
        if not cuts:
            with writer.start(scratch) as root:
                disk = Disk(root)
                operations = record(root, lambda: writer.work(root))
            cuts.extend(power_cuts(disk, operations, random.randrange(2**32)))
            random.shuffle(cuts)
        what, left = cuts.pop()
        with writes.laid_out(left, scratch) as root:
            writer.check(writer.result(root), new, what)
            writes.finished(writer, root, new, what)
        return RIGHT

    yield Kind(f"{name}: killed", kill)
    yield Kind(f"{name}: disk full or broken", fail)
    yield Kind(f"{name}: power cut", cut)
