"""The file of one score: a parquet table of the items' outcomes, sealed by a digest of the whole.

Its metadata is what the score rests on (the key), its metrics and how the run went. `sweep.store`
writes these files, and a sweep's tables are read against them (`results.stored`).
"""

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from blake3 import blake3

from matformer_lab.results.files import STORE_METADATA

MAX_SCORE_BYTES: Final = 1 << 32
"""Larger than any score; the files are read into memory."""
_FORMAT: Final = 2
_WITHOUT_DIGEST: Final = 1
"""The format of version 0.1.0; its pages have checksums."""
_DIGEST: Final = b"matformer_lab_digest"
_NO_DIGEST: Final = b"0" * 64
"""What stands in place of the digest while it is taken."""


class ParsedScore(NamedTuple):
    """A score's metadata, and its items as a pyarrow Table."""

    content: dict[str, Any]
    items: Any


def score_bytes(items: Sequence[Mapping[str, Any]], content: Mapping[str, Any]) -> bytes:
    """A score as the bytes of its file.

    Args:
        items: A mapping of column to value for each item.
        content: `key`, `rows` (the metrics) and `run`, all of them plain JSON.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = list(dict.fromkeys(name for item in items for name in item))
    table = pa.table({name: _column([item.get(name) for item in items]) for name in names})
    metadata = json.dumps({"format": _FORMAT, **content})
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, table.schema, write_page_checksum=True) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({STORE_METADATA: metadata, _DIGEST: _NO_DIGEST})
    data = buffer.getvalue()
    if data.count(_NO_DIGEST) != 1:
        raise AssertionError("the place of the digest is not unique")
    return data.replace(_NO_DIGEST, blake3(data).hexdigest().encode())


def _column(values: list[Any]) -> list[Any]:
    """One type in a column: answers may be numbers in one document and text in the next."""
    if len({type(value) for value in values if value is not None}) > 1:
        return [None if value is None else str(value) for value in values]
    return values


def parse_score(data: bytes) -> ParsedScore:
    """The score in the bytes of a file, checked to the last bit.

    Raises:
        Exception: For anything else: OSError, ValueError, KeyError or TypeError.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    metadata = file.metadata.metadata or {}
    digest = metadata.get(_DIGEST)
    content = json.loads(metadata[STORE_METADATA])
    if content["format"] not in (_FORMAT, _WITHOUT_DIGEST):
        raise ValueError(f"format {content['format']} is not {_FORMAT}")
    if digest is not None or content["format"] != _WITHOUT_DIGEST:
        blank = data.replace(digest, _NO_DIGEST) if digest else data
        if blake3(blank).hexdigest().encode() != digest:
            raise ValueError("its content does not have the digest that it carries")
    return ParsedScore(content, file.read().replace_schema_metadata(None))


def content_of(data: bytes) -> Any:
    """The metadata of a score that may be damaged elsewhere. Raises as `parse_score` does."""
    import pyarrow.parquet as pq

    metadata = pq.read_metadata(io.BytesIO(data)).metadata or {}
    return json.loads(metadata[STORE_METADATA])
