"""Write many slices of one parent at the price of what differs between them.

A checkpoint is made of pieces: a layer's FFN at a width, the rest of a layer, the embeddings for a
set of skipped layers, what no slice touches, the towers. Members of a family that need the same
piece share one file: it is written once into a pool under its address (a digest of what it is cut
from and how) and hard-linked into their folders. Each member is an ordinary sharded checkpoint;
removing or moving one does nothing to the others. The pool is gone when the family is whole; a
slice added later takes its pieces from the members that are there.
"""

import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from matformer_lab.checkpoint.contents import read_side_files, write_rest
from matformer_lab.checkpoint.disk.shard_writer import THREADS, Digests, write_shards
from matformer_lab.checkpoint.disk.shards import Shard
from matformer_lab.checkpoint.disk.staging import (
    Staging,
    check_space,
    check_target,
    keep_only,
    published_before,
    staging,
)
from matformer_lab.checkpoint.manifest import MANIFEST_FILE, read_manifest
from matformer_lab.checkpoint.parent_watch import ParentWatch
from matformer_lab.checkpoint.pieces import Member, distinct_pieces, family_members, held_pieces
from matformer_lab.checkpoint.sources import with_weights_at_hand
from matformer_lab.checkpoint.verification.claim import members_of
from matformer_lab.checkpoint.write import DEFAULT_MAX_SHARD_SIZE, check_base_model
from matformer_lab.common.atomic import fsync_folder
from matformer_lab.common.errors import InputError
from matformer_lab.common.paths import StrPath
from matformer_lab.common.progress import Advance, Progress, bytes_bar
from matformer_lab.common.units import in_units, parse_size
from matformer_lab.slicing.plan import Plan


def write_family(
    plans: Sequence[Plan],
    out: StrPath,
    *,
    max_shard_size: int | str = DEFAULT_MAX_SHARD_SIZE,
    base_model: str | None = None,
    progress: Progress = True,
    threads: int = THREADS,
) -> Path:
    """Write a folder in `out` for every plan; `out` appears when all are complete.

    Args:
        plans: At least one; of one parent, of slices with different names.
        out: The family's folder: new or empty.
        max_shard_size: The largest file, in bytes or like "5GB".
        base_model: The parent's Hub id, for the model cards; None: what is known of it.
        progress: As for `write_checkpoint`.
        threads: Tensors in work at once.

    Returns:
        `out` as a path.

    Raises:
        InputError: As `write_checkpoint`.

    Warns:
        UserWarning: When the filesystem has no hard links, and every member gets its own copy.

    Example:
        >>> import matformer_lab as ml
        >>> parent = ml.open_parent("tiny")
        >>> slices = ml.resolve_slices(["e2b", "1/2"], parent)
        >>> family = ml.write_family([ml.make_plan(parent, one) for one in slices], "family")
        >>> sorted(path.name for path in family.iterdir())
        ['e2b', 'uniform-1-2']
    """
    out = Path(out)
    max_shard_bytes = parse_size(max_shard_size, "max_shard_size")
    check_base_model(base_model)
    plans = with_weights_at_hand(plans, out, progress=progress is True)
    members = family_members(plans, max_shard_bytes)
    parent = plans[0].parent
    pieces = distinct_pieces(members)
    watch = ParentWatch(parent)
    family = {member.name: [piece.file for piece in member.pieces] for member in members}
    order = {**watch.order, "base_model": base_model, "family": family}
    if published_before(out, order):
        return out
    check_target(parent.local, out)
    side = read_side_files(plans[0])
    check_space(out, _bytes_of(pieces))
    with staging(out, parent.local, order) as place:
        if not _has_links(place):
            copies = sum(_bytes_of(member.pieces) for member in members)
            warnings.warn(
                f"{out}: this filesystem has no hard links, so every member gets its own copy: "
                f"{in_units(copies)} instead of {in_units(_bytes_of(pieces))}",
                stacklevel=2,
            )
            check_space(out, _bytes_of(pieces) + copies)
        pool, work = place.subfolder("pool"), place.subfolder("work")
        keep_only(pool, {piece.file for piece in pieces})
        title, total = f"{len(members)} slices -> {out}", family_nbytes(members)
        with watch.reading(place), bytes_bar(title, total, progress) as advance:
            digests = write_shards(
                parent.local, pieces, pool, work, advance=advance, threads=threads
            )
        for path in place.files.iterdir():
            shutil.rmtree(path)
        paths = {piece.file: pool / piece.file for piece in pieces}
        for member in members:
            folder = place.files / member.name
            folder.mkdir()
            _assemble(member, folder, paths, digests, side, base_model)
            fsync_folder(folder)
        place.publish()
    return out


def family_nbytes(members: Sequence[Member]) -> int:
    """Bytes of the tensors that a family holds, what members share counted once."""
    return sum(t.nbytes for piece in distinct_pieces(members) for t in piece.tensors)


def can_be_added_to(folder: Path) -> bool:
    """Whether `folder` is a family, and holds nothing besides its members."""
    try:
        seen = [path for path in folder.iterdir() if path.name[0] != "."]
        return bool(seen) and all((path / MANIFEST_FILE).is_file() for path in seen)
    except OSError:  # not a folder, or none that can be read
        return False


def add_to_family(
    plans: Sequence[Plan],
    family: StrPath,
    *,
    max_shard_size: int | str = DEFAULT_MAX_SHARD_SIZE,
    base_model: str | None = None,
    progress: Progress = True,
    threads: int = THREADS,
) -> tuple[str, ...]:
    """Add to a family what it does not have yet of these plans.

    Pieces that its members hold already are linked. Each new member appears when it is complete.

    Args:
        plans: At least one, of the family's parent.
        family: What `write_family` wrote.
        max_shard_size: The largest file, in bytes or like "5GB".
        base_model: As for `write_family`.
        progress: As for `write_checkpoint`.
        threads: Tensors in work at once.

    Returns:
        The names of the folders added.

    Raises:
        InputError: As `write_family`, and when the family is another parent's, has another slice
            of that name, or has all of them.

    Example:
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
    plans = with_weights_at_hand(plans, None, progress=progress is True)
    members = family_members(plans, max_shard_bytes)
    parent = plans[0].parent
    for folder in members_of(family):
        manifest = read_manifest(folder)
        if manifest and manifest.parent.fingerprint != parent.fingerprint:
            raise InputError(f"{family}: its slices are of another parent; give a new folder")
    for member in members:
        _is_there(member, family)  # raises before anything is written
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
    """Whether `member` was not there, and now is."""
    parent = member.plan.parent
    out = family / member.name
    watch = ParentWatch(parent)
    addresses = [piece.file for piece in member.pieces]
    order = {**watch.order, "base_model": base_model, "added": addresses}
    if published_before(out, order):
        return True
    if _is_there(member, family):
        return False
    side = read_side_files(member.plan)
    held = held_pieces(family, parent)
    missing = [piece for piece in member.pieces if piece.file not in held]
    check_space(out, _bytes_of(missing))
    with staging(out, parent.local, order) as place:
        pool, work = place.subfolder("pool"), place.subfolder("work")
        keep_only(pool, {piece.file for piece in missing})
        with watch.reading(place):
            digests = write_shards(
                parent.local, missing, pool, work, advance=advance, threads=threads
            )
        paths = {piece.file: pool / piece.file for piece in missing}
        for file, (path, known) in held.items():
            paths[file], digests[file] = path, known
        keep_only(place.files, set())
        _assemble(member, place.files, paths, digests, side, base_model)
        advance(_bytes_of(member.pieces) - _bytes_of(missing))
        place.publish()
    return True


def _is_there(member: Member, family: Path) -> bool:
    """Whether the family has this very slice. Raises `InputError` when its name is taken."""
    folder = family / member.name
    if not folder.exists():
        return False
    manifest = read_manifest(folder)
    plan = member.plan
    if (
        manifest is None
        or manifest.to_slice().digest != plan.slice.digest
        or manifest.text_only != plan.text_only
    ):
        raise InputError(f"{folder}: is there already and holds something else")
    return True


def _assemble(
    member: Member,
    folder: Path,
    paths: Mapping[str, Path],
    digests: Mapping[str, Digests],
    side: Mapping[str, bytes],
    base_model: str | None,
) -> None:
    """Make a member's folder of its pieces, which lie at `paths`."""
    shards = member.shards()
    for piece, shard in zip(member.pieces, shards, strict=True):
        _link_or_copy(paths[piece.file], folder / shard.file)
    own = {name: digest for piece in member.pieces for name, digest in digests[piece.file].items()}
    write_rest(member.plan, side, folder, shards, own, base_model)


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
