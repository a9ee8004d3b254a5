"""The differences between two configs."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

_ABSENT: Final = object()


def config_differences(expected: Any, found: Any, at: str = "config.json") -> Iterable[str]:
    """Every key at which two configs differ.

    Args:
        expected: The config as it should be, or a value inside it.
        found: The config as it is, or the value at the same place.
        at: Where the two values are, for the messages.

    Yields:
        Messages like `config.json: text_config.x is 1, expected 2`.
    """
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for key in sorted(expected.keys() | found.keys()):
            where = f"{at}: {key}" if at == "config.json" else f"{at}.{key}"
            yield from config_differences(
                expected.get(key, _ABSENT), found.get(key, _ABSENT), where
            )
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for position, (wanted, got) in enumerate(zip(expected, found, strict=True)):
            yield from config_differences(wanted, got, f"{at}[{position}]")
    elif expected != found or type(expected) is not type(found):
        yield f"{at} is {_shown(found)}, expected {_shown(expected)}"


def _shown(value: Any) -> str:
    return "absent" if value is _ABSENT else f"{value!r:.80}"
