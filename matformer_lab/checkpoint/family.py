"""Write several slices of one parent as a family, whose members share equal files.

A checkpoint consists of pieces: a layer's FFN at some width, the rest of a layer, the embeddings
for a set of skipped layers, the tensors that no slice cuts, the towers. Members that need the same
piece share one file. It is written once, into a pool, under its address (a digest of its sources
and cuts), and hard-linked into the members' folders. Each member is an ordinary sharded checkpoint;
removing or moving it does not affect the others. The pool is deleted once the family is complete; a
slice added later links the pieces of existing members.
"""

import os
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from matformer_lab.checkpoint.contents import file_names, read_side_files, write_other_files
from matformer_lab.checkpoint.disk.intact import Digests, digests_if_intact
from matformer_lab.checkpoint.disk.shard_writer import THREADS, growing_name, write_shards
from matformer_lab.checkpoint.disk.shards import Shard
from matformer_lab.checkpoint.disk.staging import (
    Staging,
    check_space,
    check_target,
    published_before,
    staging,
)
from matformer_lab.checkpoint.lineage import filled_in
from matformer_lab.checkpoint.manifest import MANIFEST_FILE, read_manifest
from matformer_lab.checkpoint.parent_watch import ParentWatch
from matformer_lab.checkpoint.pieces import Member, distinct_pieces, family_members, held_pieces
from matformer_lab.checkpoint.sources import with_local_weights
from matformer_lab.checkpoint.verification.claim import members_of
from matformer_lab.checkpoint.write import DEFAULT_MAX_SHARD_SIZE, check_base_model
from matformer_lab.common.errors import InputError
from matformer_lab.common.files.atomic import fsync_folder
from matformer_lab.common.paths import StrPath, to_path
from matformer_lab.common.progress import Advance, Progress, bytes_bar
from matformer_lab.common.units import in_units, parse_size
from matformer_lab.slicing.plan import Plan

_PROBES: Final = ("probe", "probe.link")


def write_family(
    plans: Sequence[Plan],
    out: StrPath,
    *,
    max_shard_size: int | str = DEFAULT_MAX_SHARD_SIZE,
    base_model: str | None = None,
    progress: Progress = True,
    threads: int = THREADS,
) -> Path:
    """Write one checkpoint folder per plan into `out`, sharing equal files by hard links.

    `out` appears once all members are complete. As with `write_checkpoint`, a run that was killed
    is continued by the same call, and the same inputs give the same bytes.

    Args:
        plans: One or more plans of the same parent, whose slices have different names.
        out: The family's folder, new or empty.
        max_shard_size: Maximum file size, in bytes or as a string like "5GB".
        base_model: The parent's Hub id, for the model cards; None: as the parent or its own card
            gives it.
        progress: As for `write_checkpoint`.
        threads: Number of tensors processed concurrently.

    Returns:
        `out` as a path.

    Raises:
        InputError: As `write_checkpoint`; or when two slices have the same folder name.

    Warns:
        UserWarning: When the filesystem has no hard links, so that every member is a full copy.

    Examples:
        >>> import matformer_lab as ml
        >>> parent = ml.open_parent("tiny")
        >>> slices = ml.resolve_slices(["e2b", "1/2"], parent)
        >>> family = ml.write_family([ml.make_plan(parent, one) for one in slices], "family")
        >>> sorted(path.name for path in family.iterdir())
        ['e2b', 'uniform-1-2']
    """
    out = to_path(out)
    max_shard_bytes = parse_size(max_shard_size, "max_shard_size")
    check_base_model(base_model)
    plans = with_local_weights(plans, out, progress=progress is True)
    members = family_members(plans, max_shard_bytes)
    parent = plans[0].parent
    pieces = distinct_pieces(members)
    watch = ParentWatch(parent, plans[0].filling.kv_from)
    side_files = read_side_files(plans[0])
    family = {member.name: [piece.file for piece in member.pieces] for member in members}
    writes = [
        *_work_on(pieces),
        *(f"files/{m.name}/{name}" for m in members for name in _files_of(m, side_files)),
    ]
    filling = sorted(plans[0].filling.asked)
    order = {
        **watch.order,
        **{"base_model": base_model, "filling": filling, "family": family, "writes": writes},
    }
    if published_before(out, order):
        return out
    check_target(parent.local, out)
    check_space(out, _bytes_of(pieces))
    with staging(out, parent.local, order) as stage:
        if not _has_hard_links(stage):
            copies = sum(_bytes_of(member.pieces) for member in members)
            warnings.warn(
                f"{out}: this filesystem has no hard links, so every member is a full copy: "
                f"{in_units(copies)} instead of {in_units(_bytes_of(pieces))}",
                stacklevel=2,
            )
            check_space(out, _bytes_of(pieces) + copies)
        pool, work = stage.subfolder("pool"), stage.subfolder("work")
        stage.keep_only("pool", (piece.file for piece in pieces))
        title, total = f"{len(members)} slices -> {out}", family_nbytes(members)
        with watch.reading(stage), bytes_bar(title, total, progress) as advance:
            digests = write_shards(
                parent.local, pieces, pool, work, advance=advance, threads=threads
            )
        stage.keep_only("files")
        paths = {piece.file: pool / piece.file for piece in pieces}
        for member in members:
            folder = stage.files / member.name
            folder.mkdir()
            _assemble(member, folder, paths, digests, side_files, base_model)
            fsync_folder(folder)
        stage.publish()
    return out


def family_nbytes(members: Sequence[Member]) -> int:
    """Bytes of all tensors in a family, counting shared ones once."""
    return sum(t.nbytes for piece in distinct_pieces(members) for t in piece.tensors)


def can_be_added_to(folder: Path) -> bool:
    """Whether `folder` is a family and, hidden files aside, holds nothing but its members."""
    try:
        visible = [path for path in folder.iterdir() if path.name[0] != "."]
        return bool(visible) and all((path / MANIFEST_FILE).is_file() for path in visible)
    except OSError:  # not a folder, or not readable
        return False


def strangers_in_family(folder: Path) -> list[str]:
    """What lies in a family beside its members, hidden files aside; empty for any other folder."""
    try:
        visible = sorted(path for path in folder.iterdir() if path.name[0] != ".")
        members = [path for path in visible if (path / MANIFEST_FILE).is_file()]
    except OSError:  # not a folder, or not readable
        return []
    return [path.name for path in visible if path not in members] if members else []


def add_to_family(
    plans: Sequence[Plan],
    family: StrPath,
    *,
    max_shard_size: int | str = DEFAULT_MAX_SHARD_SIZE,
    base_model: str | None = None,
    progress: Progress = True,
    threads: int = THREADS,
) -> tuple[str, ...]:
    """Add slices to a family, skipping those that it already has.

    Pieces that existing members have are hard-linked. Each new member appears once it is complete.

    Args:
        plans: One or more plans of the family's parent.
        family: A folder written by `write_family`.
        max_shard_size: Maximum file size, in bytes or as a string like "5GB". With another size
            than the family was written with, fewer pieces may be shared.
        base_model: As for `write_family`.
        progress: As for `write_checkpoint`.
        threads: Number of tensors processed concurrently.

    Returns:
        The names of the folders added.

    Raises:
        InputError: As `write_family`; or when the family is of another parent, has a different
            slice of the same name, or already has all of the slices.

    Examples:
        >>> import matformer_lab as ml
        >>> parent = ml.open_parent("tiny")
        >>> first, second = ml.resolve_slices(["e2b", "1/2"], parent)
        >>> family = ml.write_family([ml.make_plan(parent, first)], "growing")
        >>> ml.add_to_family([ml.make_plan(parent, second)], family)
        ('uniform-1-2',)
    """
    family = Path(family)
    max_shard_bytes = parse_size(max_shard_size, "max_shard_size")
    check_base_model(base_model)
    plans = with_local_weights(plans, None, progress=progress is True)
    members = family_members(plans, max_shard_bytes)
    parent = plans[0].parent
    for folder in members_of(family):
        manifest = read_manifest(folder)
        if manifest and manifest.parent.fingerprint != parent.fingerprint:
            raise InputError(f"{family}: its slices are of another parent; choose a new folder")
    for member in members:
        _has_member(family, member)  # raises before anything is written
    added: list[str] = []
    with bytes_bar(f"add to {family}", sum(plan.nbytes for plan in plans), progress) as advance:
        for member in members:
            if _add(member, family, base_model, advance, threads):
                added.append(member.name)
    if not added:
        raise InputError(f"{family}: already exists and has all of these slices")
    return tuple(added)


def _add(
    member: Member, family: Path, base_model: str | None, advance: Advance, threads: int
) -> bool:
    """Add `member`; False if the family already has it."""
    parent = member.plan.parent
    out = family / member.name
    watch = ParentWatch(parent, member.plan.filling.kv_from)
    side_files = read_side_files(member.plan)
    addresses = [piece.file for piece in member.pieces]
    writes = [
        *_work_on(member.pieces),
        *(f"files/{name}" for name in _files_of(member, side_files)),
    ]
    order = {**watch.order, "base_model": base_model, "added": addresses, "writes": writes}
    if published_before(out, order):
        return True
    if _has_member(family, member):
        return False
    # A file that was damaged since it was written must not get into another member.
    paths = held_pieces(family, parent)
    held = {
        piece.file: found
        for piece in member.pieces
        if (path := paths.get(piece.file))
        and (found := digests_if_intact(path, piece, parent.local)) is not None
    }
    missing = [piece for piece in member.pieces if piece.file not in held]
    check_space(out, _bytes_of(missing))
    with staging(out, parent.local, order) as stage:
        pool, work = stage.subfolder("pool"), stage.subfolder("work")
        stage.keep_only("pool", (piece.file for piece in missing))
        with watch.reading(stage):
            digests = write_shards(
                parent.local, missing, pool, work, advance=advance, threads=threads
            )
        paths |= {piece.file: pool / piece.file for piece in missing}
        stage.keep_only("files")
        _assemble(member, stage.files, paths, {**digests, **held}, side_files, base_model)
        advance(_bytes_of(member.pieces) - _bytes_of(missing))
        stage.publish()
    return True


def _has_member(family: Path, member: Member) -> bool:
    """Whether the family has this slice. Raises `InputError` if another one has its name."""
    folder = family / member.name
    if not folder.exists():
        return False
    manifest = read_manifest(folder)
    plan = member.plan
    if (
        manifest is None
        or manifest.to_slice().digest != plan.slice.digest
        or manifest.text_only != plan.text_only
        or manifest.filled != filled_in(plan)
    ):
        raise InputError(
            f"{folder}: already exists and holds something else; rename the slice or choose "
            "another folder"
        )
    return True


def _assemble(
    member: Member,
    folder: Path,
    paths: Mapping[str, Path],
    digests: Mapping[str, Digests],
    side_files: Mapping[str, bytes],
    base_model: str | None,
) -> None:
    """Fill a member's folder: link its pieces, found at `paths`, and write the other files."""
    shards = member.shards()
    for piece, shard in zip(member.pieces, shards, strict=True):
        _link_or_copy(paths[piece.file], folder / shard.file)
    own = {name: digest for piece in member.pieces for name, digest in digests[piece.file].items()}
    write_other_files(member.plan, side_files, folder, shards, own, base_model)


def _files_of(member: Member, side_files: Iterable[str]) -> list[str]:
    return sorted(file_names(side_files, member.shards()))


def _work_on(pieces: Iterable[Shard]) -> Iterator[str]:
    """What is written to the staging folder besides the members."""
    yield from (f"work/{name}" for name in _PROBES)
    for piece in pieces:
        yield from (f"pool/{piece.file}", f"work/{growing_name(piece)}")


def _bytes_of(shards: Sequence[Shard]) -> int:
    return sum(shard.nbytes for shard in shards)


def _has_hard_links(stage: Staging) -> bool:
    probe, link = (stage.subfolder("work") / name for name in _PROBES)
    try:
        for path in (probe, link):
            path.unlink(missing_ok=True)
        probe.touch()
        link.hardlink_to(probe)
    except (OSError, NotImplementedError):
        return False
    return True


def _link_or_copy(piece: Path, target: Path) -> None:
    try:
        target.hardlink_to(piece)
    except (OSError, NotImplementedError):  # no hard links, or the file has its maximum of them
        shutil.copyfile(piece, target)
        with target.open("r+b") as file:
            os.fsync(file.fileno())
    if os.name == "posix" and target.samefile(piece):
        # Writing to one member's file would change the others too; replacing the file does not.
        target.chmod(0o444)
