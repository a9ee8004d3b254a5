"""The CSV of Google's slicing configs, whose cells hold Python arithmetic: parsed, never evaluated.

The file is that of the Hub dataset google/gemma3n-slicing-configs; the constants are its columns.
"""

import csv
import io
import math
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from matformer_lab.common.errors import InputError
from matformer_lab.common.files.untrusted import read_small
from matformer_lab.common.validation import explain
from matformer_lab.slicing.notation.name import MAX_NAME
from matformer_lab.slicing.notation.spec import SliceSpec
from matformer_lab.slicing.notation.width import Width, product
from matformer_lab.slicing.slice import Published

NAME: Final = "name"
LABEL: Final = "# Effective Params (B)"
MMLU: Final = "MMLU PT accuracy"
DIMS: Final = "FFN Hidden Dims"
SKIPPED: Final = "Layers Skipped"

_MAX_BYTES: Final = 1 << 20
_SPACE: Final = " \t\r\n"


def load_csv(path: Path) -> tuple[SliceSpec, ...]:
    """The slices of a CSV file of at most 1 MiB, one per row, with the names that it gives them.

    Raises:
        InputError: The file cannot be read, lacks a column or has a bad cell. The message names the
            line of the row.
    """
    data = read_small(path, _MAX_BYTES)
    try:
        rows = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        columns = list(rows.fieldnames or ())
        for column in (DIMS, NAME):
            if column not in columns:
                raise InputError(f"{path}: no column {column!r} in the first line")
        for column in (NAME, LABEL, MMLU, DIMS, SKIPPED):
            if columns.count(column) > 1:
                raise InputError(f"{path}: column {column!r} appears twice in the first line")
        return tuple(_row(row, f"{path}, line {rows.line_num}") for row in rows)
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a CSV file ({error})") from None


def _row(row: dict[str, str | None], where: str) -> SliceSpec:
    name = (row.get(NAME) or "").strip()
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise InputError(
            f"{where}: the row needs a printable name of at most {MAX_NAME} characters"
        )
    widths = integers(row.get(DIMS) or "", f"{where}: {DIMS}")
    skip = integers(row.get(SKIPPED) or "[]", f"{where}: {SKIPPED}")
    try:
        return SliceSpec(
            name=name,
            widths=tuple(Width.parse(n) for n in widths),
            skip=tuple(skip),
            published=_published(name, row),
        )
    except ValidationError as error:
        raise InputError(f"{where}: {explain(error, SliceSpec)}") from None


def _published(name: str, row: dict[str, str | None]) -> Published | None:
    try:
        label, mmlu = float(row.get(LABEL) or ""), float((row.get(MMLU) or "").rstrip("%"))
    except ValueError:
        return None
    if not (math.isfinite(label) and math.isfinite(mmlu)):
        return None
    return Published(row=name, effective_params_b=label, mmlu=mmlu)


def integers(cell: str, where: str) -> list[int]:
    """The integers of a cell: a list of non-negative integers, or of products (`product`).

    Args:
        cell: The cell's text.
        where: Names the row and column in an error.

    Raises:
        InputError: The cell is anything else.

    Examples:
        >>> integers("[2_048 * 4, 8192]", "line 2")
        [8192, 8192]
    """
    text = cell.strip(_SPACE)
    if not (text.startswith("[") and text.endswith("]")):
        raise InputError(f"{where}: expected a list like [2_048 * 4, 8192], found {cell!r:.60}")
    items = [item.strip(_SPACE) for item in text[1:-1].split(",")]
    if items and not items[-1]:
        items.pop()  # an empty list, or a trailing comma
    found = []
    for position, item in enumerate(items):
        value = product(item)
        if value is None or value.denominator != 1:
            raise InputError(
                f"{where}: item {position} is {item!r:.60}; only integers and products of "
                "numbers that are integers are allowed"
            )
        found.append(int(value))
    return found
