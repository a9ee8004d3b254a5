"""What a kind of input is."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Final

RIGHT: Final = "right"
REFUSED: Final = "refused"


@dataclass
class Kind:
    """One kind of input.

    Attributes:
        name: What is tried.
        one: Tries one; says `RIGHT` or `REFUSED`. An AssertionError or any other exception but an
            `InputError` is something found.
        seen: How often there was what.
    """

    name: str
    one: Callable[[Random], str]
    seen: Counter[str] = field(default_factory=Counter)
