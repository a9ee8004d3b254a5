"""An FFN width as a person writes it."""

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from matformer_lab.common.errors import InputError
from matformer_lab.gemma3n import TextConfig

_FRACTION = re.compile(r"([0-9]{1,9})\s*/\s*([0-9]{1,9})")
_MULTIPLE = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)\s*[xX]")
_DECIMAL = re.compile(r"[0-9]{1,12}\.[0-9]{0,12}|\.[0-9]{1,12}")
_PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)\s*%")
_NUMBER = r"[0-9](?:_?[0-9]){0,11}(?:\.[0-9]{1,6})?"
_SPACE = r"[ \t\r\n]*"
_PRODUCT = re.compile(rf"{_NUMBER}(?:{_SPACE}\*{_SPACE}{_NUMBER}){{0,3}}")
_INT = re.compile(rf"int{_SPACE}\({_SPACE}([^()]*?){_SPACE}\)")


def product(written: str) -> Fraction | None:
    """A number, or a product of up to four, as Python writes them: parsed, never evaluated.

    Args:
        written: `8192`, `2_048 * 4`, `2048*3.5`, or one of these in `int(...)`, which rounds down.

    Returns:
        The value; None if it is anything else.

    Examples:
        >>> product("int(2_048 * 3.5)"), product("2 ** 3")
        (Fraction(7168, 1), None)
    """
    inside = _INT.fullmatch(written)
    text = inside[1] if inside else written
    if not _PRODUCT.fullmatch(text):
        return None
    value = math.prod(Fraction(n.strip().replace("_", "")) for n in text.split("*"))
    return Fraction(math.floor(value)) if inside else Fraction(value)


FEWEST_UNITS: Final = 16
"""A bare number below this is hardly meant as hidden units: people write 1 for the whole FFN."""


def ways_to_write(count: int) -> str:
    """What to write in place of a bare number below `FEWEST_UNITS`, by what it may mean.

    Examples:
        >>> ways_to_write(4)
        'write 4x for 4 hidden_size, or widths: 4 in a file for 4 hidden units'
    """
    whole = "full for the whole FFN, " if count == 1 else ""
    units = f"{count} hidden unit{'' if count == 1 else 's'}"
    return (
        f"write {whole}{count}x for {count} hidden_size, or widths: {count} in a file for {units}"
    )


@dataclass(frozen=True)
class Width:
    """An FFN width as written, which `units` turns into hidden units for a layer of a parent.

    Attributes:
        value: The number.
        unit: What it counts: hidden `units`, the parent's `ffn` width, or the parent's
            `hidden_size` (`hidden`).
    """

    value: Fraction
    unit: Literal["units", "ffn", "hidden"]

    @classmethod
    def parse(cls, written: Any) -> "Width":
        """Read a width.

        Args:
            written: Hidden units (8192, or a product such as `2_048 * 4` or `int(2048 * 3.5)`), a
                fraction of the parent's FFN (`1/2`, `0.5`, `50%`, `full`), a multiple of
                `hidden_size` (`4x`, `3.5x`), or a `Width`, which is returned.

        Raises:
            ValueError: It is none of these.

        Examples:
            >>> Width.parse("1/2"), str(Width.parse("4x"))
            (Width(value=Fraction(1, 2), unit='ffn'), '4x')
        """
        if isinstance(written, Width):
            return written
        if type(written) is int:
            return cls(Fraction(written), "units")
        if isinstance(written, str | float):
            text = str(written).strip()
            if text.lower() == "full":
                return cls(Fraction(1), "ffn")
            if (match := _FRACTION.fullmatch(text)) and int(match[2]):
                return cls(Fraction(int(match[1]), int(match[2])), "ffn")
            if match := _PERCENT.fullmatch(text):
                return cls(Fraction(match[1]) / 100, "ffn")
            if _DECIMAL.fullmatch(text) and Fraction(text):
                return cls._of_decimal(Fraction(text), text)
            if match := _MULTIPLE.fullmatch(text):
                return cls(Fraction(match[1]), "hidden")
            if (units := product(text)) is not None:
                return cls(units, "units")
        raise ValueError(
            f"width {written!r:.60} is neither hidden units (8192), a fraction of the parent's FFN "
            "(1/2, 0.5, full) nor a multiple of hidden_size (4x)"
        )

    @classmethod
    def _of_decimal(cls, value: Fraction, written: str) -> "Width":
        """A number with a point: a part of the FFN below 1, hidden units where it is a count."""
        if 0 < value < 1:
            return cls(value, "ffn")
        if value >= FEWEST_UNITS and value.denominator == 1:
            return cls(value, "units")
        if value.denominator == 1:
            raise ValueError(
                f"width {written} may be hidden units, a multiple of hidden_size, or the whole "
                f"FFN; {ways_to_write(int(value))}"
            )
        raise ValueError(
            f"width {written} is not an integer; write hidden units (8192), a fraction of the "
            "parent's FFN (1/2, 0.5, full) or a multiple of hidden_size (4x)"
        )

    def __str__(self) -> str:
        """The width in a form that `parse` reads."""
        if self.unit == "hidden":
            return f"{Decimal(self.value.numerator) / self.value.denominator}x"
        if self.unit == "ffn":
            return "full" if self.value == 1 else str(self.value)
        return str(self.value)

    def units(self, layer: int, text: TextConfig) -> int:
        """The hidden units that this width means at one layer.

        Args:
            layer: The layer's index in the parent.
            text: The parent's config.

        Raises:
            InputError: The width is not an integer there, is below 1 or is over the parent's.
        """
        full = text.intermediate_size[layer]
        scale = {"units": 1, "ffn": full, "hidden": text.hidden_size}[self.unit]
        width = self.value * scale
        if width.denominator != 1:
            raise InputError(
                f"layer {layer}: width {self} of the parent's {full} is {float(width):g}, "
                f"not an integer; the nearest are {math.floor(width)} and {math.ceil(width)}"
            )
        if width < 1:
            raise InputError(f"layer {layer}: width is {width}; use 1 to {full}, or skip the layer")
        if width > full:
            raise InputError(f"layer {layer}: width {width} is over the parent's {full}")
        return int(width)


WIDTH_SCHEMA: Final = {
    "anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string"}],
    "description": "hidden units (8192, or 2_048 * 4), a fraction of the parent's FFN (1/2, 0.5, "
    "50%, full), or a multiple of hidden_size (4x, 3.5x)",
}
"""The JSON schema of a width."""

OneWidth = Annotated[
    Width, BeforeValidator(Width.parse), PlainSerializer(str), WithJsonSchema(WIDTH_SCHEMA)
]
