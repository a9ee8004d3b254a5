"""Pieces: the weight files that members of a family can share, named by their content."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from blake3 import blake3

from matformer_lab.checkpoint.disk.shards import Shard, make_shard, shard_name, split
from matformer_lab.checkpoint.manifest import read_manifest
from matformer_lab.checkpoint.verification.claim import claimed_plan, members_of
from matformer_lab.common.errors import InputError
from matformer_lab.gemma3n import Cut, cut_of, split_layer
from matformer_lab.parent.folder import read_layout
from matformer_lab.parent.parent import Parent
from matformer_lab.slicing.plan import Plan, TensorPlan


@dataclass(frozen=True)
class Member:
    """One checkpoint of a family.

    Attributes:
        plan: What the checkpoint holds.
        pieces: Its weights. The file name of each piece is its address.
    """

    plan: Plan
    pieces: tuple[Shard, ...]

    @property
    def name(self) -> str:
        """The name of its folder in the family."""
        return self.plan.slice.slug

    def shards(self) -> tuple[Shard, ...]:
        """The pieces under the file names that transformers expects in a checkpoint."""
        count = len(self.pieces)
        return tuple(
            replace(piece, file=shard_name(number, count))
            for number, piece in enumerate(self.pieces, 1)
        )


def family_members(plans: Sequence[Plan], max_shard_bytes: int) -> tuple[Member, ...]:
    """Divide every plan into pieces.

    Args:
        plans: Plans of the same parent.
        max_shard_bytes: Maximum size of a piece, as for `pieces_of`.

    Returns:
        A member for each plan, in the order of the plans.

    Raises:
        InputError: When two slices have the same folder name, upper and lower case being equal.
    """
    members = tuple(Member(plan, pieces_of(plan, max_shard_bytes)) for plan in plans)
    folders: dict[str, str] = {}
    for member in members:
        other = folders.setdefault(member.name.lower(), member.plan.slice.name)
        if other != member.plan.slice.name:
            raise InputError(
                f"slices {other!r} and {member.plan.slice.name!r} would have the same folder name; "
                "rename one of them"
            )
    return members


def distinct_pieces(members: Sequence[Member]) -> tuple[Shard, ...]:
    """The pieces of all members, each of them once."""
    return tuple({piece.file: piece for member in members for piece in member.pieces}.values())


def pieces_of(plan: Plan, max_shard_bytes: int) -> tuple[Shard, ...]:
    """Divide a plan's tensors into pieces.

    Which tensors share a piece depends on those tensors alone, so that different plans arrive at
    the same pieces.

    Args:
        plan: The plan.
        max_shard_bytes: Maximum size of a piece. Only a piece with a single tensor may exceed it.

    Returns:
        The pieces in the order of their first tensors.
    """
    groups: dict[_PieceKey, list[TensorPlan]] = {}
    for tensor in plan.tensors:
        groups.setdefault(_piece_key(plan, tensor), []).append(tensor)
    return tuple(
        replace(shard, file=f"{_address(shard)}.safetensors")
        for group in groups.values()
        for shard in split(group, max_shard_bytes)
    )


class _PieceKey(NamedTuple):
    """Tensors with the same key share a piece, as far as its size allows."""

    part: str
    layer: int | None = None


def _piece_key(plan: Plan, tensor: TensorPlan) -> _PieceKey:
    if not tensor.name.startswith(plan.prefix):
        return _PieceKey("towers")
    name = tensor.name.removeprefix(plan.prefix)
    cut, layer = cut_of(name), split_layer(name)[0]
    if cut in (Cut.LAYER_ROWS, Cut.LAYER_COLUMNS):
        return _PieceKey("kept layers")
    if cut in (Cut.FFN_ROWS, Cut.FFN_COLUMNS):
        return _PieceKey("ffn", layer)
    return _PieceKey("rest", layer)


def _address(shard: Shard) -> str:
    """Digest of the file's header and of each tensor's source and cut: equal for equal bytes."""
    digest = blake3(shard.header)
    for tensor in shard.tensors:
        digest.update(f"{tensor.source} {tensor.axis} {tensor.ranges}\n".encode())
    return digest.hexdigest()[:32]


def held_pieces(family: Path, parent: Parent) -> dict[str, Path]:
    """The files in which the members of a family should already have pieces.

    Args:
        family: The family's folder.
        parent: The parent of all members.

    Returns:
        The files by the piece's file name (its address), by what their members say that they are:
        whether a file holds that is not checked (`digests_if_intact`).

    Raises:
        InputError: When a member's manifest, config or weight files cannot be read.
    """
    found: dict[str, Path] = {}
    for folder in members_of(family):
        if read_manifest(folder) is None:
            continue
        planned = {tensor.name: tensor for tensor in claimed_plan(folder, parent).tensors}
        place = {name: number for number, name in enumerate(planned)}
        files: dict[str, list[str]] = {}
        for name, info in read_layout(folder).items():
            files.setdefault(info.file, []).append(name)
        for file, names in files.items():
            if planned.keys() >= set(names):
                shard = make_shard(file, (planned[n] for n in sorted(names, key=place.__getitem__)))
                found[f"{_address(shard)}.safetensors"] = folder / file
    return found
