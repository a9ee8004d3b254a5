"""JSON from elsewhere, parsed strictly: no duplicate keys, no NaN, no lone surrogates, no endless
numbers or nesting."""

import json
from typing import Any, Final

from matformer_lab.common.errors import InputError, one_line
from matformer_lab.common.files.written_json import WrittenFloat, float_as_written
from matformer_lab.common.nesting import MAX_NESTING, check_nesting

MAX_DIGITS: Final = 1000
"""Digits of a whole number; Python itself refuses to read or print more than 4300."""


_UTF_16: Final = (b"\xff\xfe", b"\xfe\xff")


def _text(data: bytes) -> str:
    """The characters of UTF-8 text, without the mark that Windows editors put before them.

    Raises:
        ValueError: It is not UTF-8.
    """
    if data.startswith(_UTF_16):
        raise ValueError("it is UTF-16; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line} is not UTF-8; save it as UTF-8") from None


def strict_json(data: bytes, where: str, *, as_written: bool = False) -> dict[str, Any]:
    """Parse a JSON object, strictly.

    Python's `json` keeps the last of duplicate keys, reads NaN and Infinity, and accepts `\\ud800`,
    which cannot be encoded as UTF-8 again. All of these are refused here, and so are numbers and
    nesting beyond what other code can handle.

    Args:
        data: UTF-8 text; a byte-order mark before it is left out.
        where: Names the file in an error.
        as_written: Keep the characters of numbers (`float_as_written`), for a file that
            `written_json` writes again; NaN and Infinity, which Python's configs may hold, are then
            read too.

    Raises:
        InputError: `data` is not JSON, is not an object, or holds one of the above.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise ValueError(f"key {twice!r} appears twice")
        return result

    def no_constant(name: str) -> Any:
        raise ValueError(f"{name} is not allowed in JSON")

    decimal = float_as_written if as_written else float

    def integer(digits: str) -> int | float:
        if len(digits) > MAX_DIGITS:
            raise ValueError(f"a number of {len(digits):,} digits")
        # No integer has a minus and is zero: safetensors refuses it where it wants one.
        return decimal(digits) if digits == "-0" else int(digits)

    try:
        value = json.loads(
            _text(data),
            object_pairs_hook=unique,
            parse_constant=WrittenFloat if as_written else no_constant,
            parse_float=decimal,
            parse_int=integer,
        )
        check_nesting([value])
        if b"\\u" in data:
            json.dumps(value, ensure_ascii=False).encode()  # fails on a lone surrogate
    except RecursionError:
        raise InputError(
            f"{where}: not valid JSON (is nested more than {MAX_NESTING} levels deep)"
        ) from None
    except ValueError as error:
        raise InputError(f"{where}: not valid JSON ({one_line(error)})") from None
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected a JSON object, found {type(value).__name__}")
    return value
