"""Opening a parent by the reference that people write: a folder, a Hub id, or `tiny`."""

import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Final

from matformer_lab import tiny
from matformer_lab.common.errors import InputError
from matformer_lab.common.paths import StrPath
from matformer_lab.parent.folder import open_folder
from matformer_lab.parent.hub import looks_like_repo_id, open_remote
from matformer_lab.parent.parent import Parent
from matformer_lab.parent.quantised import QuantisedCheckpoint, QuantisedError
from matformer_lab.parent.references import (
    cached_repo,
    cached_snapshot,
    folder_of_file,
    is_file,
    is_folder,
    unknown,
    without_url,
)

TINY: Final = "tiny"
"""The reference of the embedded parent."""


def open_parent(ref: Parent | StrPath) -> Parent:
    """Open a checkpoint to slice, reading its config.json and safetensors headers, never weights.

    Args:
        ref: `tiny`, a local checkpoint folder (or a file of it), or a Hub id (`org/name`,
            `org/name@revision`, the repository's page, its folder in a Hub cache). A folder called
            `tiny` is opened as `./tiny`; other folders win over Hub ids. A parent that is open
            already is returned as it is.

    Returns:
        The parent, checked: each text tensor that its config calls for is there, in the right
        shape and in a dtype that can be sliced.

    Raises:
        InputError: `ref` is not a whole Gemma 3n checkpoint, or the Hub cannot be reached.

    Warns:
        UserWarning: Something about the checkpoint is not as published, and was understood.

    Examples:
        >>> import matformer_lab as ml
        >>> parent = ml.open_parent("tiny")
        >>> parent.text.num_hidden_layers, parent.dtype
        (35, 'BF16')
    """
    if isinstance(ref, Parent):
        return ref
    opened = _open(os.fspath(ref))
    for note in opened.notes:
        warnings.warn(note, stacklevel=2)
    return opened


def open_checkpoint(ref: StrPath) -> Parent | QuantisedCheckpoint:
    """As `open_parent`, for one that need not be sliced: its weights may be quantised.

    Args:
        ref: As for `open_parent`.

    Raises:
        InputError: As `open_parent`.
    """
    try:
        return open_parent(ref)
    except QuantisedError as error:
        return error.checkpoint


def _open(ref: str) -> Parent:
    if ref == TINY:
        return open_folder(tiny.model_dir(), ref=TINY, name=TINY)
    ref = without_url(os.path.expanduser(ref))  # noqa: PTH111 (Path's fails without a home)
    path = Path(ref)
    if is_folder(path):
        repo_id = cached_repo(path)
        if repo_id is None:
            return open_folder(path, ref=ref)
        snapshot = cached_snapshot(path)
        return replace(open_folder(snapshot, ref=ref, name=repo_id), revision=snapshot.name)
    if is_file(path):
        return _open_file(path)
    repo = ref.strip().removesuffix("/")
    if looks_like_repo_id(repo) and path.suffix not in (".gguf", ".safetensors"):
        return open_remote(repo)
    raise unknown(ref)


def _open_file(path: Path) -> Parent:
    parent = open_folder(folder_of_file(path))
    files = {info.file for info in parent.tensors.values()}
    if path.suffix == ".safetensors" and path.name not in files:
        raise InputError(
            f"{path}: is not among the weights of {path.parent}, which are {min(files)}"
        )
    return parent
