"""JSON that somebody else wrote: duplicate keys, NaN and half surrogate pairs are refused."""

import json
from typing import Any

from matformer_lab.common.errors import InputError, one_line


def strict_json(data: bytes, where: str) -> dict[str, Any]:
    """Parse a JSON object, refusing duplicate keys, NaN, half surrogate pairs and non-objects."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise ValueError(f"key {twice!r} appears twice")
        return result

    def no_constant(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    try:
        value = json.loads(data.decode(), object_pairs_hook=unique, parse_constant=no_constant)
        if b"\\u" in data:
            json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate is not text
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not valid JSON ({one_line(error)})") from None
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected a JSON object, found {type(value).__name__}")
    return value
