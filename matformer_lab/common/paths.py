"""The type of paths that callers pass."""

import os
from typing import TypeAlias

StrPath: TypeAlias = str | os.PathLike[str]
"""A path, as every public function accepts it."""
