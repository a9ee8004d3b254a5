"""Write many slices of one parent at the price of what differs between them.

A checkpoint is made of pieces: a layer's FFN at a width, the rest of a layer, the embeddings for a
set of skipped layers, what no slice touches, the towers. Members of a family that need the same
piece share one file: it is written once into a pool under its address (a digest of what it is cut
from and how) and hard-linked into their folders. Each member is an ordinary sharded checkpoint;
removing or moving one does nothing to the others. The pool is gone when the family is whole.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from blake3 import blake3

from matformer_lab.atomic import fsync_folder
from matformer_lab.errors import InputError
from matformer_lab.extract import (
    DEFAULT_MAX_SHARD_BYTES,
    ParentWatch,
    keep_only,
    read_side_files,
    write_rest,
)
from matformer_lab.gemma3n import Cut, cut_of, split_layer
from matformer_lab.plan import Plan, TensorPlan
from matformer_lab.progress import Advance, quiet
from matformer_lab.shard_writer import THREADS, write_shards
from matformer_lab.shards import Shard, shard_name, split
from matformer_lab.staging import Staging, check_space, check_target, published_before, staging


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


def family_members(
    plans: Sequence[Plan], max_shard_bytes: int = DEFAULT_MAX_SHARD_BYTES
) -> tuple[Member, ...]:
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


def write_family(
    members: Sequence[Member],
    out: Path,
    *,
    base_model: str | None = None,
    advance: Advance = quiet,
    warn: Callable[[str], None] = lambda _: None,
    threads: int = THREADS,
) -> Path:
    """Write every member as a folder in `out`, which appears when all are complete.

    `advance` is told the bytes written, `warn` in a sentence when the filesystem has no hard links
    and every member gets copies. Raises `InputError` as `write_checkpoint` does.
    """
    parent = members[0].plan.parent
    pieces = distinct_pieces(members)
    watch = ParentWatch(parent)
    family = {member.name: [piece.file for piece in member.pieces] for member in members}
    job = {**watch.job, "base_model": base_model, "family": family}
    if published_before(out, job):
        return out
    check_target(parent.local, out)
    side = read_side_files(members[0].plan)
    check_space(out, _bytes_of(pieces))
    with staging(out, parent.local, job) as place:
        if not _has_links(place):
            copies = sum(_bytes_of(member.pieces) for member in members)
            warn(
                f"{out}: this filesystem has no hard links, so every member gets its own copy: "
                f"{copies / 1e9:,.1f} GB instead of {_bytes_of(pieces) / 1e9:,.1f} GB"
            )
            check_space(out, _bytes_of(pieces) + copies)
        pool, work = place.subfolder("pool"), place.subfolder("work")
        keep_only(pool, {piece.file for piece in pieces})
        digests = write_shards(parent.local, pieces, pool, work, advance=advance, threads=threads)
        watch.check(place)
        for path in place.files.iterdir():
            shutil.rmtree(path)
        for member in members:
            folder = place.files / member.name
            folder.mkdir()
            shards = member.shards()
            for piece, shard in zip(member.pieces, shards, strict=True):
                _link_or_copy(pool / piece.file, folder / shard.file)
            own = {name: d for piece in member.pieces for name, d in digests[piece.file].items()}
            write_rest(member.plan, side, folder, shards, own, base_model)
            fsync_folder(folder)
        place.publish()
    return out


def _bytes_of(shards: Sequence[Shard]) -> int:
    return sum(shard.nbytes for shard in shards)


def _has_links(place: Staging) -> bool:
    probe = place.subfolder("work") / "probe"
    try:
        for name in (probe, probe.with_suffix(".link")):
            name.unlink(missing_ok=True)
        probe.touch()
        probe.with_suffix(".link").hardlink_to(probe)
    except (OSError, NotImplementedError):
        return False
    return True


def _link_or_copy(piece: Path, target: Path) -> None:
    try:
        target.hardlink_to(piece)
    except (OSError, NotImplementedError):  # no links here, or no more of them
        shutil.copyfile(piece, target)
        with target.open("r+b") as file:
            os.fsync(file.fileno())
    if os.name == "posix" and target.samefile(piece):
        # A write into one member's file would be a write into all: a tool has to replace it.
        target.chmod(0o444)
