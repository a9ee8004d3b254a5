"""Text from elsewhere, made safe to show: names, paths and messages that somebody else chose."""

from typing import Final

MAX_SHOWN: Final = 1000
"""Characters of a message that are shown; no message of ours is so long."""


def printable(text: str) -> str:
    r"""The text in one line that a terminal shows as itself, and that can be encoded.

    Control characters (escape sequences move the cursor, clear the screen, set the title), marks
    that change the direction of writing, other invisible characters and the stand-ins for bytes
    that are not text become escapes, as in `repr`. A text that went through it stays as it is.

    Examples:
        >>> print(printable("\x1b[2Jok: fine"))
        \x1b[2Jok: fine
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def shown(text: str) -> str:
    r"""A message in one printable line: white space runs together, the middle of a long one left
    out.

    Examples:
        >>> shown("first line\n  second \x07 line")
        'first line second \\x07 line'
    """
    line = printable(" ".join(text.split()))
    if len(line) <= MAX_SHOWN:
        return line
    start, end = 2 * MAX_SHOWN // 3, MAX_SHOWN // 3
    return f"{line[:start]} [...] {line[-end:]}"
