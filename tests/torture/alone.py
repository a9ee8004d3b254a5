"""Mutated files, each read by itself: thousands a second."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from tests.support.mutations import changed, mutated, swapped
from tests.torture.kinds import REFUSED, RIGHT, Kind
from tests.torture.readers import Reader, readers


def read_alone(scratch: Path) -> Iterator[Kind]:
    """What reads a file, without the command around it."""
    (scratch / "readers").mkdir()
    for reader in readers(scratch / "readers"):
        assert reader.accepts(reader.valid), f"{reader.name}: a valid file is refused"
        yield Kind(f"read alone: {reader.name}", _of_reader(reader))


def _of_reader(reader: Reader) -> Callable[[Random], str]:
    try:
        values = json.loads(reader.valid)
    except ValueError:
        values = None

    def one(random: Random) -> str:
        if values is not None and random.random() < 0.5:
            data = json.dumps(swapped(values, random)).encode()
        elif reader.valid.isascii():
            data = mutated(reader.valid, random)
        else:
            data = changed(reader.valid, random)
        return RIGHT if reader.accepts(data) else REFUSED

    return one
