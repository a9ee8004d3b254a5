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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from blake3 import blake3

from matformer_lab.checkpoint.extract import (
    DEFAULT_MAX_SHARD_BYTES,
    ParentWatch,
    keep_only,
    read_side_files,
    write_rest,
)
from matformer_lab.checkpoint.manifest import MANIFEST_FILE, read_manifest
from matformer_lab.checkpoint.shard_writer import THREADS, Digests, write_shards
from matformer_lab.checkpoint.shards import Shard, make_shard, shard_name, split
from matformer_lab.checkpoint.staging import (
    Staging,
    check_space,
    check_target,
    in_units,
    published_before,
    staging,
)
from matformer_lab.checkpoint.verify import claimed_plan, members_of
from matformer_lab.common.atomic import fsync_folder
from matformer_lab.common.errors import InputError
from matformer_lab.common.progress import Advance, quiet
from matformer_lab.common.untrusted import open_regular
from matformer_lab.gemma3n import Cut, cut_of, split_layer
from matformer_lab.parent.parent import Parent, read_layout
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
                f"{in_units(copies)} instead of {in_units(_bytes_of(pieces))}"
            )
            check_space(out, _bytes_of(pieces) + copies)
        pool, work = place.subfolder("pool"), place.subfolder("work")
        keep_only(pool, {piece.file for piece in pieces})
        with watch.reading(place):
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


def can_be_added_to(folder: Path) -> bool:
    """Whether `folder` is a family, and holds nothing besides its members."""
    try:
        seen = [path for path in folder.iterdir() if path.name[0] != "."]
        return bool(seen) and all((path / MANIFEST_FILE).is_file() for path in seen)
    except OSError:  # not a folder, or none that can be read
        return False


def add_to_family(
    members: Sequence[Member],
    family: Path,
    *,
    base_model: str | None = None,
    advance: Advance = quiet,
    threads: int = THREADS,
) -> tuple[Member, ...]:
    """Add the members that `family` does not have yet, and return them.

    Pieces that its members hold already are linked. Each new member appears when it is complete.
    `advance` is told the bytes of the pieces. Raises `InputError` as `write_family` does, and when
    the family is another parent's, has another slice of that name, or has all of them.
    """
    parent = members[0].plan.parent
    for folder in members_of(family):
        manifest = read_manifest(folder)
        if manifest and manifest.parent.fingerprint != parent.fingerprint:
            raise InputError(f"{family}: its slices are of another parent; give a new folder")
    for member in members:
        _is_there(member, family)  # raises before anything is written
    added = []
    for member in members:
        out = family / member.name
        watch = ParentWatch(parent)
        addresses = [piece.file for piece in member.pieces]
        job = {**watch.job, "base_model": base_model, "added": addresses}
        if published_before(out, job):
            added.append(member)
        elif not _is_there(member, family):
            side = read_side_files(member.plan)
            held = held_pieces(family, parent)
            missing = [piece for piece in member.pieces if piece.file not in held]
            check_space(out, _bytes_of(missing))
            with staging(out, parent.local, job) as place:
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
            added.append(member)
    if not added:
        raise InputError(f"{family}: already exists and has all of these slices")
    return tuple(added)


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
