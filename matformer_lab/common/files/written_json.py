"""JSON that is written back as it was read: the numbers keep the characters they were written in.

`1e999` is infinity to Python, and `1E5` or `0.10` would come back as other characters. A config is
patched, not rewritten, so what the tool does not change must not change.
"""

import json
import math
from collections.abc import Mapping
from typing import Any


class WrittenFloat(float):
    """A number of a JSON file, with the characters it was written in.

    Equal to any float of the same value; NaN, which a config may hold, is equal to NaN.
    """

    written: str

    def __new__(cls, written: str) -> "WrittenFloat":
        """Read a number, `NaN`, `Infinity` or `-Infinity`."""
        value = super().__new__(cls, written)
        value.written = written
        return value

    def __eq__(self, other: object) -> bool:
        if math.isnan(self):
            return isinstance(other, float) and math.isnan(other)
        return float.__eq__(self, other) is True

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = float.__hash__

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return WrittenFloat, (self.written,)


def float_as_written(written: str) -> float:
    """A number that `written_json` writes as it was read: a plain float where Python does too."""
    value = float(written)
    return value if repr(value) == written else WrittenFloat(written)


def written_json(value: Any, indent: str = "") -> str:
    """`value` as JSON over several lines, as `json.dumps(value, indent=2)` lays it out.

    Args:
        value: From `strict_json` with `as_written`, or made of what JSON has.
        indent: Before the closing bracket.
    """
    inner = indent + "  "
    if isinstance(value, WrittenFloat):
        return value.written
    if isinstance(value, Mapping) and value:
        items = (
            f"{json.dumps(key, ensure_ascii=False)}: {written_json(item, inner)}"
            for key, item in value.items()
        )
        return "{\n" + ",\n".join(inner + item for item in items) + f"\n{indent}}}"
    if isinstance(value, list | tuple) and value:
        return (
            "[\n" + ",\n".join(inner + written_json(item, inner) for item in value) + f"\n{indent}]"
        )
    return json.dumps(value, ensure_ascii=False)
