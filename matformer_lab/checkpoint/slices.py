"""What `matformer-lab slice` does: write one slice, write several as a family, or add to one."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matformer_lab.checkpoint.family import (
    add_to_family,
    can_be_added_to,
    family_nbytes,
    strangers_in_family,
    write_family,
)
from matformer_lab.checkpoint.pieces import family_members
from matformer_lab.checkpoint.write import (
    DEFAULT_MAX_SHARD_SIZE,
    check_base_model,
    write_checkpoint,
)
from matformer_lab.common.errors import InputError
from matformer_lab.common.paths import StrPath, to_path
from matformer_lab.common.progress import Progress
from matformer_lab.common.units import parse_size
from matformer_lab.parent.opening import open_parent
from matformer_lab.parent.parent import Parent
from matformer_lab.slicing.notation.catalog import resolve_slices
from matformer_lab.slicing.plan import Plan, make_plan


@dataclass(frozen=True)
class Written:
    """What `write_slices` wrote. As a string, the line that `matformer-lab slice` prints.

    Attributes:
        folder: The checkpoint or the family.
        slices: Names of the slices written; of their folders where `added`.
        folders: The checkpoints written: `folder` itself, or folders in it.
        tensors: Number of tensors, summed over the slices asked for.
        nbytes: Bytes of these tensors, without sharing.
        nbytes_held: Bytes of these tensors on the disk, those that a new family shares counted
            once.
        added: Whether `folder` already was a family.

    Examples:
        >>> import matformer_lab as ml
        >>> written = ml.write_slices("tiny", ["e2b", "1/4"], "two")
        >>> written.slices
        ('e2b', 'uniform-1-4')
        >>> written.nbytes_held < written.nbytes
        True
    """

    folder: Path
    slices: tuple[str, ...]
    folders: tuple[Path, ...]
    tensors: int
    nbytes: int
    nbytes_held: int
    added: bool = False

    def __str__(self) -> str:
        if self.added:
            return f"{self.folder}: added {', '.join(path.name for path in self.folders)}"
        if self.folders == (self.folder,):
            return f"{self.folder}: {self.slices[0]}, {self.tensors} tensors, {self.nbytes:,} bytes"
        return (
            f"{self.folder}: {len(self.folders)} slices, {self.nbytes:,} bytes of tensors held in "
            f"{self.nbytes_held:,}"
        )


def write_slices(
    parent: Parent | StrPath,
    slices: Sequence[object] | str,
    out: StrPath,
    *,
    text_only: bool = False,
    as_is: bool = False,
    kv_from: Parent | StrPath | None = None,
    max_shard_size: int | str = DEFAULT_MAX_SHARD_SIZE,
    base_model: str | None = None,
    progress: Progress = True,
) -> Written:
    """Write one slice as a checkpoint, or several as a family whose members share equal files.

    If `out` already is a family, the slices that it does not have are added to it.

    Args:
        parent: An opened parent, or what `open_parent` accepts. Of a Hub parent, the weights that
            the slices need are downloaded.
        slices: What `resolve_slices` accepts, or one name.
        out: The folder to write: new, empty, or a family of this parent.
        text_only: Whether to leave the towers out and write `gemma3n_text` checkpoints.
        as_is: Whether to fill in nothing of what runtimes want and the parent lacks (`make_plan`).
        kv_from: The checkpoint from which to take K/V tensors that the parent lacks; None: they
            are copies of those that the layers share.
        max_shard_size: Maximum file size, in bytes or as a string like "5GB".
        base_model: The parent's Hub id, for the model card; None: as the parent or its own card
            gives it.
        progress: As for `write_checkpoint`.

    Returns:
        What was written, and where.

    Raises:
        InputError: As `open_parent`, `resolve_slices`, `make_plan`, `write_checkpoint` and
            `add_to_family`.

    Warns:
        UserWarning: Something was filled in, or weights hold NaN or infinity.

    Examples:
        >>> import matformer_lab as ml
        >>> print(ml.write_slices("tiny", ["e2b", "1/2"], "slices"))
        slices: 2 slices, 974,480 bytes of tensors held in 827,240
    """
    out = to_path(out)
    max_shard_bytes = parse_size(max_shard_size, "max_shard_size")
    check_base_model(base_model)
    opened = open_parent(parent)
    resolved = resolve_slices([slices] if isinstance(slices, str) else slices, opened)
    other = None if kv_from is None else open_parent(kv_from)
    plans = [
        make_plan(opened, one, text_only=text_only, as_is=as_is, kv_from=other) for one in resolved
    ]
    _warn_of_not_finite(opened, plans)
    _warn_of_filling(opened, plans, other)
    tensors, nbytes = sum(len(plan.tensors) for plan in plans), sum(plan.nbytes for plan in plans)
    if stray := strangers_in_family(out):
        raise InputError(
            f"{out}: is a family with something else in it ({', '.join(stray[:3])}); move that away"
        )
    if can_be_added_to(out):
        folder_names = add_to_family(
            plans, out, max_shard_size=max_shard_bytes, base_model=base_model, progress=progress
        )
        folders = tuple(out / name for name in folder_names)
        return Written(out, folder_names, folders, tensors, nbytes, nbytes, added=True)
    if len(plans) == 1:
        write_checkpoint(
            plans[0], out, max_shard_size=max_shard_bytes, base_model=base_model, progress=progress
        )
        return Written(out, (plans[0].slice.name,), (out,), tensors, nbytes, nbytes)
    write_family(
        plans, out, max_shard_size=max_shard_bytes, base_model=base_model, progress=progress
    )
    members = family_members(plans, max_shard_bytes)
    folders = tuple(out / member.name for member in members)
    names = tuple(plan.slice.name for plan in plans)
    return Written(out, names, folders, tensors, nbytes, family_nbytes(members))


def _warn_of_not_finite(parent: Parent, plans: Sequence[Plan]) -> None:
    """Name weights with NaN or infinity, where the fingerprint wants every byte read anyway."""
    if parent.folder is None or parent.revision:
        return
    used = {tensor.source for plan in plans for tensor in plan.tensors} & parent.not_finite
    if used:
        more = f" and {len(used) - 3} more" if len(used) > 3 else ""
        warnings.warn(
            f"{parent.ref}: NaN or infinity in {', '.join(sorted(used)[:3])}{more}; a slice with "
            "them has no score",
            stacklevel=3,
        )


def _warn_of_filling(parent: Parent, plans: Sequence[Plan], kv_from: Parent | None) -> None:
    """Say what the slices have that the parent lacks."""
    filling = next((plan.filling for plan in plans if plan.filling), None)
    if filling is not None:
        warnings.warn(
            f"{parent.ref}: lacks what some runtimes want; filled in {filling}. `as_is` leaves it "
            "out",
            stacklevel=3,
        )
    if kv_from is not None and not any(plan.filling.kv_layers for plan in plans):
        warnings.warn(
            f"{parent.ref}: has all of its K/V, so nothing is taken from {kv_from.ref}",
            stacklevel=3,
        )
