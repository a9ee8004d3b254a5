"""Folders of sweeps that version 0.1.0 wrote, before there was a marker: which files are a sweep's.

A stored score carries the tool's metadata, and the recipe as it ran lists the tool's version and
every slice's digest. The other files are proven by these: outcomes by the stored score they came
from, slices by their digests, the tables by each other, the report by what it shows.
"""

import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from matformer_lab.common.errors import InputError
from matformer_lab.common.files.strict_json import strict_json
from matformer_lab.common.files.strict_yaml import parse_yaml
from matformer_lab.common.files.untrusted import read_small
from matformer_lab.results.files import (
    FRONTIER_PNG,
    FRONTIER_SVG,
    RECIPE_YAML,
    REPORT_HTML,
    RESULTS_CSV,
    RESULTS_PARQUET,
    SAMPLES,
    SLICES_JSON,
    STORE,
    STORE_METADATA,
    STORE_NAME,
)
from matformer_lab.results.tables.description import Description

_COLUMNS: Final = ["slice", "effective_params", "total_params", "task", "metric", "value"]
_SVG_SIZE: Final = re.compile(rb'<svg [^>]*width="([0-9.]+)pt" height="([0-9.]+)pt"')
_DOTS_PER_POINT: Final = 200 / 72
_DOTS_PER_METRE: Final = 7874  # 200 dpi


def files_of_unmarked(folder: Path) -> frozenset[str] | None:
    """The files in a folder without a marker that a sweep of 0.1.0 wrote.

    Args:
        folder: The folder.

    Returns:
        Their places within the folder, stored scores aside; None where nothing shows that the
        folder is a sweep's.
    """
    digests = _digests_as_run(folder / RECIPE_YAML)
    stored = {path for path in folder.glob(f"{STORE}/*/*.parquet") if _is_stored_score(path)}
    if digests is None and not stored:
        return None
    return frozenset(_proven(folder, digests, stored))


def _proven(folder: Path, digests: Mapping[str, Any] | None, stored: set[Path]) -> Iterator[str]:
    if digests is not None:
        yield RECIPE_YAML
        if _describes(folder / SLICES_JSON, digests):
            yield SLICES_JSON
    frame = _results(folder / RESULTS_PARQUET)
    if frame is not None and (digests is None or set(frame["slice"]) <= set(digests)):
        yield RESULTS_PARQUET
        if _content(folder / RESULTS_CSV) == frame.to_csv(index=False).encode():
            yield RESULTS_CSV
    svg = _content(folder / FRONTIER_SVG)
    if b"Matplotlib" in svg and b"Slices of " in svg:
        yield FRONTIER_SVG
        if _is_same_picture(_content(folder / FRONTIER_PNG), svg):
            yield FRONTIER_PNG
    page = _content(folder / REPORT_HTML)
    if b'<script type="application/json" id="data">' in page and b"frontier-title" in page:
        yield REPORT_HTML
    tables = [_items(path) for path in sorted(stored)]
    for path in sorted(folder.glob(f"{SAMPLES}/*/*.parquet")):
        items = _items(path)
        if items is not None and items.column_names[:2] == ["slice", "task"]:
            items = items.select(items.column_names[2:])
            if any(items.equals(table) for table in tables):
                yield path.relative_to(folder).as_posix()


def _digests_as_run(path: Path) -> Mapping[str, Any] | None:
    """The digests of the slices, from a recipe as it ran; None from any other file."""
    try:
        recipe = parse_yaml(read_small(path), str(path))
        as_run = recipe["as_run"]
        if not isinstance(as_run["versions"]["matformer_lab"], str) or path.is_symlink():
            return None
        digests = as_run.get("slices", {})
    except (InputError, KeyError, TypeError, AttributeError):
        return None
    return digests if isinstance(digests, Mapping) else None


def _describes(path: Path, digests: Mapping[str, Any]) -> bool:
    try:
        described = Description.model_validate_json(read_small(path))
    except (InputError, ValidationError, RecursionError):
        return False
    return {one.name: one.digest for one in described.slices} == dict(digests)


def _is_stored_score(path: Path) -> bool:
    import pyarrow.parquet as pq

    if not STORE_NAME.fullmatch(path.name) or path.is_symlink():
        return False
    try:
        content = strict_json((pq.read_metadata(path).metadata or {})[STORE_METADATA], str(path))
    except (InputError, OSError, ValueError, KeyError):
        return False
    return {"format", "key", "rows", "run"} <= content.keys()


def _results(path: Path) -> Any:
    """results.parquet as a DataFrame; None where it is something else."""
    import pandas as pd

    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError, KeyError):
        return None
    return frame if list(frame.columns[: len(_COLUMNS)]) == _COLUMNS else None


def _items(path: Path) -> Any:
    """The outcomes in a parquet file as a pyarrow Table; None where it cannot be read."""
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except (OSError, ValueError):
        return None
    return table.replace_schema_metadata(None)


def _content(path: Path) -> bytes:
    try:
        return b"" if path.is_symlink() else read_small(path)
    except InputError:
        return b""


def _is_same_picture(png: bytes, svg: bytes) -> bool:
    """Whether a PNG is `svg` at 200 dpi, without anything that an image editor would add."""
    size = _SVG_SIZE.search(svg)
    if not size or not png.startswith(b"\x89PNG\r\n\x1a\n"):
        return False
    chunks = dict(_chunks(png))
    if set(chunks) != {b"IHDR", b"pHYs", b"IDAT", b"IEND"}:
        return False
    pixels = struct.unpack(">II", chunks[b"IHDR"][:8])
    expected = [float(points) * _DOTS_PER_POINT for points in size.groups()]
    dots = struct.unpack(">IIB", chunks[b"pHYs"])
    return dots == (_DOTS_PER_METRE, _DOTS_PER_METRE, 1) and all(
        abs(found - wanted) < 2 for found, wanted in zip(pixels, expected, strict=True)
    )


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The chunks of a PNG: type and data."""
    position = 8
    while position + 12 <= len(png):
        (length,) = struct.unpack(">I", png[position : position + 4])
        yield png[position + 4 : position + 8], png[position + 8 : position + 8 + length]
        position += 12 + length
