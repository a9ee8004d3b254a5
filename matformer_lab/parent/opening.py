"""Opening a parent by the reference that people write: a folder, a Hub id, or `tiny`."""

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
"""The reference of the embedded parent."""


def open_parent(ref: StrPath) -> Parent:
    """Open a checkpoint to slice, reading its config.json and safetensors headers, never weights.

    Args:
        ref: `tiny`, a local checkpoint folder, or a Hub id (`org/name`, `org/name@revision`). A
            folder called `tiny` is opened as `./tiny`; other folders win over Hub ids.

    Returns:
        The parent, checked: each text tensor that its config calls for is there, in the right
        shape and in a dtype that can be sliced.

    Raises:
        InputError: `ref` is not a whole Gemma 3n checkpoint, or the Hub cannot be reached.

    Examples:
        >>> import matformer_lab as ml
        >>> parent = ml.open_parent("tiny")
        >>> parent.text.num_hidden_layers, parent.dtype
        (35, 'BF16')
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
    except (OSError, ValueError):  # not a possible file name
        return False
