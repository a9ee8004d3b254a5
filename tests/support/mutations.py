"""Mutations of files: bytes, values, and what disks do."""

import json
import os
from collections.abc import Iterator
from random import Random
from typing import Any, Final

MEMORY: Final = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where files lie that nobody needs on a disk."""

# --- mutations of bytes -------------------------------------------------------------------------

MORSELS = r"""
0 -1 -0 1.0 1e2 1E400 99999999999999999999 18446744073709551616 9223372036854775807 null true NaN
Infinity " \ { } [ ] , : \u0000 \ud800 \u00e9 ../ / BF16 F32 F4 I64 __metadata__ a # &a *a
!!python/name:os << ? | % @ = ' * _ () [] {} １ ² é !!bool
!!timestamp !!int !!float !!binary !!set ! 1:59 2001-02-30 0x1f 010 1_0 .inf .nan 1.0e+999
\x1b \x1c \x85 \u202e \0 "\0" "\ud800" ~ - ... --- %YAML
"""
DEEP = [b"[" * 2000, b"- " * 2000, b"{a: " * 2000, b'{"a":' * 2000, b"9" * 5000, b":59" * 2000]
CONTROLS = ["\x1b[2J", "\x1c", "\x85", "\u202e", "\u2028", "\0", "\r"]
BYTES = [
    *MORSELS.encode().split(),
    *DEEP,
    *(control.encode() for control in CONTROLS),
    *(b"", b" ", b"\n", b"\t", b"\x00", b"\xff", b"\xef\xbb\xbf"),
]


def mutated(data: bytes, random: Random) -> bytes:
    for _ in range(random.randint(1, 4)):
        at, size, morsel = random.randint(0, len(data)), random.randint(0, 40), random.choice(BYTES)
        data = random.choice(
            (
                data[:at] + morsel + data[at:],
                data[:at] + morsel + data[at + len(morsel) :],
                data[:at] + data[at + size :],
                data[:at] + data[at : at + size] + data[at:],
                data[: max(at, 1)],
            )
        )
    return data


# --- mutations of values ------------------------------------------------------------------------

ODD = """
[null, true, false, 0, -1, 1, 2, 7, 2147483648, 9223372036854775808, 18446744073709551616, 1e30,
 0.5, -0.0, 1e308, "", "x", "../x", "/etc/passwd", "a\\nb", "\\ud7ff",
 "\\u001b[2J", "\\u202e", "!!bool", NaN, Infinity, -Infinity, [], [[]], {}, {"a": 1}, [0],
 ["full_attention"], "BF16", "I4"]
"""


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) inside a JSON value."""
    keys = list(value) if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], dict | list):
            yield from places(value[key])


def swapped(value: Any, random: Random) -> Any:
    value = json.loads(json.dumps(value))
    for _ in range(random.randint(1, 3)):
        found = list(places(value))
        if not found:
            break
        container, key = random.choice(found)
        kind = random.choice(("set", "drop", "nudge"))
        if kind == "drop":
            del container[key]
        elif kind == "nudge" and type(container[key]) is int:
            container[key] += random.choice((-1, 1))
        else:
            container[key] = random.choice(json.loads(ODD))
    return value


# --- mutations of binary files ------------------------------------------------------------------


def changed(data: bytes, random: Random) -> bytes:
    """Bytes of a binary file, changed as disks, copies and people change them."""
    way = random.choice(("bit", "byte", "zeros", "cut", "longer", "swap", "text"))
    at, size = random.randrange(len(data)), random.randint(1, 5000)
    if way == "bit":
        return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]
    if way == "byte":
        return data[:at] + bytes([random.randrange(256)]) + data[at + 1 :]
    if way == "zeros":
        return data[:at] + bytes(len(data[at : at + size])) + data[at + size :]
    if way == "cut":
        return data[:at]
    if way == "longer":
        return data + random.randbytes(random.choice((1, 8, 4096)))
    if way == "swap":
        other = random.randrange(len(data))
        first, second = sorted((at, other))
        second = max(second, min(first + 8, len(data)))
        piece, rest = data[first : first + 8], data[second : second + 8]
        return data[:first] + rest + data[first + 8 : second] + piece + data[second + 8 :]
    return mutated(data, random)
