"""Sizes and counts as people write and read them."""

import re
from typing import Final

from matformer_lab.common.errors import InputError

ALIGNMENT: Final = 4096
"""Bytes: direct writes need file offsets and addresses that are multiples of this, a disk block.

The tensor data of every file that we write starts at a multiple of it."""

_UNITS: Final = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
                 "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}  # fmt: skip


_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*([KMGT]?I?B?)", re.ASCII)


def parse_size(written: int | str, name: str) -> int:
    """Bytes of a size as written, with the units of transformers' `max_shard_size`.

    Args:
        written: Bytes as a number, or text such as `5GB` (10**9 bytes each) or `5GiB` (2**30).
        name: The parameter's name, for the error.

    Raises:
        InputError: `written` is not a size, or is less than one byte.

    Examples:
        >>> parse_size("1.5GB", "max_shard_size"), parse_size("4KiB", "max_shard_size")
        (1500000000, 4096)
    """
    if isinstance(written, int):
        if written < 1:
            raise InputError(f"`{name}` is {written}; give a number of bytes, or a size like 5GB")
        return written
    match = _SIZE.fullmatch(written.strip().upper())
    unit = match and _UNITS.get(match[2] if match[2].endswith("B") or not match[2] else "?")
    if not match or not unit or not (size := int(float(match[1]) * unit)):
        raise InputError(f"`{name}` is {written!r:.60}; write a size like 5GB or 500MB")
    return size


_COUNT = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([KMBGT]?)", re.ASCII)
_COUNT_UNITS: Final = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12}


def parse_count(written: int | str, name: str) -> int:
    """A number of parameters or operations as written: `3.0B`, `86996`.

    Args:
        written: A number, or text with K, M, B (or G) or T behind the number.
        name: The parameter's name, for the error.

    Raises:
        InputError: `written` is not a count, or is less than one.

    Examples:
        >>> parse_count("3.0B", "max_params"), parse_count("120K", "max_params")
        (3000000000, 120000)
    """
    match = _COUNT.fullmatch(str(written).strip().upper().replace("_", "").replace(",", ""))
    count = round(float(match[1]) * _COUNT_UNITS[match[2]]) if match else 0
    if count < 1:
        raise InputError(f"`{name}` is {written!r:.60}; write a number like 3.0B, 250M or 86996")
    return count


def in_units(nbytes: int) -> str:
    """Bytes in the largest decimal unit that they reach.

    Examples:
        >>> in_units(10_870_000_000), in_units(512)
        ('10.9 GB', '512 bytes')
    """
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if nbytes >= size:
            return f"{nbytes / size:,.1f} {unit}"
    return f"{nbytes} bytes"
