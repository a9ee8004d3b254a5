"""Paths as callers give them."""

import os
from typing import TypeAlias

StrPath: TypeAlias = str | os.PathLike[str]
"""What every public function takes where it takes a path."""
