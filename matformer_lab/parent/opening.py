"""PARENT as people write it: a folder, a Hub id, or `tiny`."""

import os
from pathlib import Path
from typing import Final

from matformer_lab import tiny
from matformer_lab.common.errors import InputError
from matformer_lab.common.paths import StrPath
from matformer_lab.parent.folder import open_folder
from matformer_lab.parent.hub import looks_like_repo_id, open_remote
from matformer_lab.parent.parent import Parent

TINY: Final = "tiny"


def open_parent(ref: StrPath) -> Parent:
    """Open a checkpoint to slice. Reads config.json and safetensors headers, never weights.

    Args:
        ref: `tiny`, a local checkpoint folder, or a Hub id (`org/name`, `org/name@revision`).

    Raises:
        InputError: For anything that is not a whole Gemma 3n checkpoint.

    Example:
        >>> import matformer_lab as ml
        >>> parent = ml.open_parent("tiny")
        >>> parent.text.num_hidden_layers, parent.dtype
        (35, 'F32')
    """
    ref = os.fspath(ref)
    if ref == TINY:
        return open_folder(tiny.model_dir(), ref=TINY, name=TINY)
    if _is_folder(Path(ref)):
        return open_folder(Path(ref), ref=ref)
    if looks_like_repo_id(ref):
        return open_remote(ref)
    raise InputError(
        f"{ref}: no such folder; a parent is a checkpoint folder, a Hub id (org/name) or `tiny`"
    )


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name that no file can have
        return False
