"""The CSV of Google's slicing configs, whose cells hold Python arithmetic: parsed, never evaluated.

The file is that of the Hub dataset google/gemma3n-slicing-configs; the constants are its columns.
"""

import csv
import io
import math
import re
from pathlib import Path
from typing import Final

from matformer_lab.common.errors import InputError
from matformer_lab.slicing.notation.spec import SliceSpec
from matformer_lab.slicing.notation.width import Width
from matformer_lab.slicing.slice import Published

NAME: Final = "name"
LABEL: Final = "# Effective Params (B)"
MMLU: Final = "MMLU PT accuracy"
DIMS: Final = "FFN Hidden Dims"
SKIPPED: Final = "Layers Skipped"

_MAX_BYTES: Final = 1 << 20
_NUMBER = r"[0-9](?:_?[0-9]){0,11}"
_PRODUCT = re.compile(rf"{_NUMBER}(?:\s*\*\s*{_NUMBER}){{0,3}}")


def load_csv(path: Path) -> tuple[SliceSpec, ...]:
    """The slices of a CSV file of at most 1 MiB, one per row, with the names that it gives them.

    Raises:
        InputError: The file cannot be read, lacks a column or has a bad cell. The message names the
            line of the row.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if len(data) > _MAX_BYTES:
        raise InputError(f"{path}: over the limit of 1 MiB; no real slices file is so large")
    try:
        rows = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        missing = {NAME, DIMS} - set(rows.fieldnames or ())
        if missing:
            raise InputError(f"{path}: no column {sorted(missing)[0]!r} in the first line")
        return tuple(_row(row, f"{path}, line {rows.line_num}") for row in rows)
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a CSV file ({error})") from None


def _row(row: dict[str, str | None], where: str) -> SliceSpec:
    name = (row.get(NAME) or "").strip()
    if not name or len(name) > 100 or not name.isprintable():
        raise InputError(f"{where}: the row needs a printable name of at most 100 characters")
    return SliceSpec(
        name=name,
        widths=tuple(Width.parse(n) for n in integers(row.get(DIMS) or "", f"{where}: {DIMS}")),
        skip=tuple(integers(row.get(SKIPPED) or "[]", f"{where}: {SKIPPED}")),
        published=_published(name, row),
    )


def _published(name: str, row: dict[str, str | None]) -> Published | None:
    try:
        label, mmlu = float(row.get(LABEL) or ""), float((row.get(MMLU) or "").rstrip("%"))
    except ValueError:
        return None
    if not (math.isfinite(label) and math.isfinite(mmlu)):
        return None
    return Published(row=name, effective_params_b=label, mmlu=mmlu)


def integers(cell: str, where: str) -> list[int]:
    """The integers of a cell: a list of non-negative integers or products of up to four of them.

    Args:
        cell: The cell's text.
        where: Names the row and column in an error.

    Raises:
        InputError: The cell is anything else.

    Examples:
        >>> integers("[2_048 * 4, 8192]", "line 2")
        [8192, 8192]
    """
    text = cell.strip()
    if not (text.startswith("[") and text.endswith("]")):
        raise InputError(f"{where}: expected a list like [2_048 * 4, 8192], found {cell!r:.60}")
    items = [item.strip() for item in text[1:-1].split(",")]
    if items and not items[-1]:
        items.pop()  # an empty list, or a trailing comma
    for position, item in enumerate(items):
        if not _PRODUCT.fullmatch(item):
            raise InputError(
                f"{where}: item {position} is {item!r:.60}; only integers and products of "
                "integers are allowed"
            )
    return [math.prod(int(factor) for factor in item.split("*")) for item in items]
