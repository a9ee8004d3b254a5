"""The pieces of a checkpoint that members of a family can share, and their addresses."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from blake3 import blake3

from matformer_lab.checkpoint.disk.shard_writer import Digests
from matformer_lab.checkpoint.disk.shards import Shard, make_shard, shard_name, split
from matformer_lab.checkpoint.manifest import read_manifest
from matformer_lab.checkpoint.verification.claim import claimed_plan, members_of
from matformer_lab.common.errors import InputError
from matformer_lab.common.untrusted import open_regular
from matformer_lab.gemma3n import Cut, cut_of, split_layer
from matformer_lab.parent.folder import read_layout
from matformer_lab.parent.parent import Parent
from matformer_lab.slicing.plan import Plan, TensorPlan


@dataclass(frozen=True)
class Member:
    """One slice of the family: its plan and its pieces, each named by its address."""

    plan: Plan
    pieces: tuple[Shard, ...]

    @property
    def name(self) -> str:
        """Its folder's name in the family."""
        return self.plan.slice.slug

    def shards(self) -> tuple[Shard, ...]:
        """The pieces under the names that a checkpoint's shards have."""
        count = len(self.pieces)
        return tuple(
            replace(piece, file=shard_name(number, count))
            for number, piece in enumerate(self.pieces, 1)
        )


def family_members(plans: Sequence[Plan], max_shard_bytes: int) -> tuple[Member, ...]:
    """The members. Raises `InputError` when two of them would have the same folder."""
    members = tuple(Member(plan, pieces_of(plan, max_shard_bytes)) for plan in plans)
    folders: dict[str, str] = {}
    for member in members:
        other = folders.setdefault(member.name.lower(), member.plan.slice.name)
        if other != member.plan.slice.name:
            raise InputError(
                f"slices {other!r} and {member.plan.slice.name!r} would have the same folder name; "
                "rename one"
            )
    return members


def distinct_pieces(members: Sequence[Member]) -> tuple[Shard, ...]:
    """Every piece once."""
    return tuple({piece.file: piece for member in members for piece in member.pieces}.values())


def pieces_of(plan: Plan, max_shard_bytes: int) -> tuple[Shard, ...]:
    """A plan's pieces in the order of their first tensors, none over `max_shard_bytes` if it can.

    Which tensors share a piece depends on the tensors alone, so that plans agree on it.
    """
    groups: dict[tuple[str, int | None], list[TensorPlan]] = {}
    for tensor in plan.tensors:
        groups.setdefault(_piece_key(plan, tensor), []).append(tensor)
    return tuple(
        replace(shard, file=f"{_address(shard)}.safetensors")
        for group in groups.values()
        for shard in split(group, max_shard_bytes)
    )


def _piece_key(plan: Plan, tensor: TensorPlan) -> tuple[str, int | None]:
    if not tensor.name.startswith(plan.prefix):
        return "towers", None
    name = tensor.name.removeprefix(plan.prefix)
    cut, layer = cut_of(name), split_layer(name)[0]
    if cut in (Cut.LAYER_ROWS, Cut.LAYER_COLUMNS):
        return "kept layers", None
    if cut in (Cut.FFN_ROWS, Cut.FFN_COLUMNS):
        return "ffn", layer
    return "rest", layer


def _address(shard: Shard) -> str:
    """What the file is: its header, and where in the parent each tensor comes from."""
    digest = blake3(shard.header)
    for tensor in shard.tensors:
        digest.update(f"{tensor.source} {tensor.axis} {tensor.ranges}\n".encode())
    return digest.hexdigest()[:32]


def held_pieces(family: Path, parent: Parent) -> dict[str, tuple[Path, Digests]]:
    """By address, the pieces of `parent` that a family's members hold, with their digests."""
    found: dict[str, tuple[Path, Digests]] = {}
    for folder in members_of(family):
        manifest = read_manifest(folder)
        if manifest is None:
            continue
        planned = {tensor.name: tensor for tensor in claimed_plan(folder, parent).tensors}
        files: dict[str, list[str]] = {}
        for name, info in read_layout(folder).items():
            files.setdefault(info.file, []).append(name)
        for file, names in files.items():
            if planned.keys() >= set(names) and manifest.tensors.keys() >= set(names):
                shard = make_shard(file, sorted((planned[n] for n in names), key=_place_in_parent))
                if _begins_with(folder / file, shard.header):
                    digests = {name: manifest.tensors[name] for name in names}
                    found[f"{_address(shard)}.safetensors"] = folder / file, digests
    return found


def _place_in_parent(tensor: TensorPlan) -> tuple[str, int]:
    return tensor.info.file, tensor.info.offset


def _begins_with(path: Path, header: bytes) -> bool:
    with open_regular(path) as file:
        return file.read(len(header)) == header
