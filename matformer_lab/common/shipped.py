"""Where the files that ship with the package lie: `configs/` and `recipes/`.

In the repository they stand at the top, where people look for them; the wheel carries them inside
the package.
"""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def shipped_folder(name: str) -> Path:
    """The folder `configs` or `recipes`."""
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name
