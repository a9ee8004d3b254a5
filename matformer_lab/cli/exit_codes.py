"""What the process tells whoever called it."""

from typing import Final

DONE: Final = 0
NO: Final = 1
"""A check said no (verify, gate); nothing else ends so."""
BAD_INPUT: Final = 2
UNFORESEEN: Final = 70
"""A fault of ours (EX_SOFTWARE of sysexits.h)."""
INTERRUPTED: Final = 130
