"""How deep values from elsewhere are nested: no deeper than recursive code can follow."""

from typing import Any, Final

MAX_NESTING: Final = 100
"""Levels of lists and mappings in each other; no real file of any kind has so many."""


def check_nesting(value: Any) -> None:
    """Check that a value of JSON is nested at most `MAX_NESTING` levels deep.

    Raises:
        ValueError: It is not.
    """
    level = [value]
    for _ in range(MAX_NESTING + 1):
        level = [
            item
            for container in level
            for item in (container.values() if isinstance(container, dict) else container)
            if isinstance(item, dict | list)
        ]
        if not level:
            return
    raise ValueError(f"is nested more than {MAX_NESTING} levels deep")
