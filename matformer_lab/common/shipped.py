"""The folders of data files that ship with the package: `configs/` and `recipes/`.

In the repository they are at the top level, where people look for them; in the wheel they are
inside the package.
"""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def shipped_folder(name: str) -> Path:
    """The folder called `name`: `configs` or `recipes`."""
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name
