"""Parquet files read with care: regular files only, every failure one line."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from matformer_lab.common.errors import InputError, one_line
from matformer_lab.common.files.untrusted import read_small

if TYPE_CHECKING:
    import pyarrow as pa

_MAX_BYTES: Final = 1 << 30
"""Larger than the samples of any real task."""


def read_parquet(path: Path, columns: list[str] | None = None) -> "pa.Table":
    """The table in a parquet file.

    Args:
        path: The file.
        columns: Those to read, as far as the file has them; None: all.

    Raises:
        InputError: It is missing, is not a regular file or cannot be read as parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.exists():
        raise InputError(f"{path}: not found; run the sweep again to rewrite it")
    data = pa.BufferReader(read_small(path, _MAX_BYTES))
    try:
        file = pq.ParquetFile(data, page_checksum_verification=True)
        names = file.schema_arrow.names
        if len(set(names)) < len(names):
            raise InputError(f"{path}: a column is there twice")
        wanted = None if columns is None else [name for name in columns if name in names]
        table = file.read(columns=wanted)
        table.validate(full=True)  # text that is no UTF-8 would be noticed only where it is used
        return table
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read: {one_line(error)}") from None


def columns_of(table: "pa.Table") -> dict[str, list[Any]]:
    """The columns as lists of Python values, by name."""
    return {name: table[name].to_pylist() for name in table.column_names}
