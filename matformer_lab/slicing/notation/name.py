"""The name of a slice as a person writes it: what it says is what is seen."""

from typing import Final

from pydantic import AfterValidator

MAX_NAME: Final = 100
"""Characters of a slice's name."""


def check_visible(name: str) -> str:
    """`name`, if all of it can be seen.

    Control characters can rewrite a terminal, direction overrides (U+202E and the like) make one
    name look like another, and so do characters without width.

    Raises:
        ValueError: It holds such a character.
    """
    for character in name:
        if not character.isprintable():
            raise ValueError(f"holds U+{ord(character):04X}, a character that cannot be seen")
    return name


VISIBLE: Final = AfterValidator(check_visible)
"""For pydantic: a text all of which can be seen."""
