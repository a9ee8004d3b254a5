"""Verification: whether a checkpoint is exactly the slice it claims to be, byte for byte."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from matformer_lab.checkpoint.sources import with_local_weights
from matformer_lab.checkpoint.verification.by_manifest import verify_by_manifest
from matformer_lab.checkpoint.verification.by_parent import verify_by_parent
from matformer_lab.checkpoint.verification.claim import (
    claim_of,
    claimed_plan,
    is_family,
    members_of,
    plan_of,
    strangers_of,
)
from matformer_lab.checkpoint.verification.comparison import (
    Comparable,
    ComparisonCache,
    first_difference,
    in_threads,
    whole_tensor,
)
from matformer_lab.checkpoint.verification.config_differences import config_differences
from matformer_lab.checkpoint.verification.result import Verification, name_problems
from matformer_lab.common.errors import InputError
from matformer_lab.common.paths import StrPath
from matformer_lab.common.progress import Advance, Progress, bytes_bar
from matformer_lab.parent.folder import read_config, read_layout
from matformer_lab.parent.hub import downloaded, looks_like_repo_id
from matformer_lab.parent.opening import open_parent
from matformer_lab.parent.parent import Parent
from matformer_lab.slicing.notation.catalog import resolve_slice
from matformer_lab.slicing.slice import Slice


def verify_checkpoint(
    folder: StrPath,
    parent: Parent | StrPath | None = None,
    slice_: Slice | str | None = None,
    *,
    kv_from: Parent | StrPath | None = None,
    progress: Progress = True,
) -> Verification:
    """Check that a checkpoint is exactly the slice that it claims to be.

    With a parent, every tensor is recomputed from it and compared byte by byte, and so are the
    files that a slice has from it. What was filled in is recomputed too; K/V from another
    checkpoint are checked against the manifest's digests where `kv_from` is not given. The manifest
    is compared too. Without a parent, the checkpoint is checked against its own manifest. A file or
    folder that is neither is a problem. Of a family, every member is checked; a file that members
    share is read once.

    Args:
        folder: A checkpoint, or a family; or a Hub id (`org/name@revision`), whose files are
            downloaded.
        parent: What it was cut from: an opened parent, or what `open_parent` accepts. It may also
            be what that was cut from: a slice of a slice knows what it is of the first.
        slice_: The slice that it has to be. None: the one in its manifest or, without a manifest
            the widths in its config.json; which layers were skipped is then read off its weights.
        kv_from: The checkpoint that K/V were filled in from.
        progress: As for `write_checkpoint`, with the number of bytes compared.

    Returns:
        The problems found. Problems do not raise.

    Raises:
        InputError: When there is no such folder, it does not say which slice it is, there is
            neither `parent` nor manifest, or `slice_` is given without `parent` or for a family.

    Examples:
        >>> import matformer_lab as ml
        >>> parent = ml.open_parent("tiny")
        >>> plan = ml.make_plan(parent, ml.resolve_slice("1/2", parent))
        >>> ml.verify_checkpoint(ml.write_checkpoint(plan, "half"), parent).ok
        True
    """
    folder = _existing(folder)
    opened = None if parent is None else open_parent(parent)
    other = None if kv_from is None else open_parent(kv_from)
    if other is not None and opened is None:
        raise InputError("`kv_from` needs `parent`, the checkpoint that lacked the K/V")
    if slice_ is not None:
        if opened is None:
            raise InputError("`slice` needs `parent`, the checkpoint that it is a slice of")
        if is_family(folder):
            raise InputError(
                f"{folder}: is a family; leave out `slice`, or give the folder of one member"
            )
        slice_ = resolve_slice(slice_, opened)
    members = members_of(folder)
    if opened is not None and (opened.folder is None or (other and other.folder is None)):
        claims = [claimed_plan(member, opened, slice_, other) for member in members]
        local = with_local_weights(claims, None, progress=progress is True)[0]
        opened, other = local.parent, local.filling.kv_from
    cache = ComparisonCache()
    with bytes_bar(f"verify {folder}", _weight_bytes(members), progress) as advance:
        if not is_family(folder):
            return _verify(folder, opened, slice_, other, cache, advance)
        return _verify_members(folder, opened, other, cache, advance)


def compare_checkpoints(
    folder: StrPath, other: StrPath, *, progress: Progress = True
) -> Verification:
    """Check that two checkpoints have the same tensors and config, however they are sharded.

    Args:
        folder: A checkpoint.
        other: The checkpoint that it has to be equal to.
        progress: As for `write_checkpoint`, with the number of bytes compared.

    Returns:
        The differences. Differences do not raise.

    Raises:
        InputError: When one of the folders is a family, or cannot be read as a checkpoint.

    Examples:
        >>> import matformer_lab as ml
        >>> parent = ml.open_parent("tiny")
        >>> plan = ml.make_plan(parent, ml.resolve_slice("1/4", parent))
        >>> one, other = ml.write_checkpoint(plan, "one"), ml.write_checkpoint(plan, "other")
        >>> ml.compare_checkpoints(one, other).ok
        True
    """
    folder, other = _existing(folder), _existing(other)
    if is_family(folder) or is_family(other):
        family = folder if is_family(folder) else other
        raise InputError(f"{family}: is a family; compare its members one by one")
    layout, reference = read_layout(folder), read_layout(other)
    problems = [
        *config_differences(read_config(other), read_config(folder)),
        *name_problems(reference.keys(), layout.keys()),
    ]
    comparable = []
    for name in sorted(layout.keys() & reference.keys()):
        ours, theirs = layout[name], reference[name]
        if (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
            problems.append(
                f"tensor {name}: {ours.dtype} {list(ours.shape)}, "
                f"the other has {theirs.dtype} {list(theirs.shape)}"
            )
        else:
            comparable.append(Comparable(whole_tensor(name, theirs), ours))
    with bytes_bar(f"compare {folder}", _weight_bytes([folder]), progress) as advance:

        def compare(tensor: Comparable) -> str | None:
            return first_difference(other, tensor.expected, folder, tensor.found, advance)

        problems += filter(None, in_threads(compare, comparable))
    return Verification(len(comparable), tuple(problems))


def _existing(folder: StrPath) -> Path:
    path = Path(folder)
    if path.is_dir():
        return path
    if looks_like_repo_id(str(path)):
        return downloaded(str(path))
    raise InputError(f"{path}: no such folder")


def _weight_bytes(folders: Sequence[Path]) -> int:
    """Bytes of the folders' weight files, counting hard-linked files once."""
    sizes: dict[tuple[int, int], int] = {}
    for folder in folders:
        for path in folder.glob("*.safetensors"):
            with suppress(OSError):
                stat = path.stat()
                sizes[stat.st_dev, stat.st_ino] = stat.st_size
    return sum(sizes.values())


def _verify_members(
    family: Path,
    parent: Parent | None,
    kv_from: Parent | None,
    cache: ComparisonCache,
    advance: Advance,
) -> Verification:
    tensors = 0
    problems = [f"{name}: does not belong to the family" for name in strangers_of(family)]
    for member in members_of(family):
        try:
            result = _verify(member, parent, None, kv_from, cache, advance)
        except InputError as error:
            result = Verification(0, (str(error),))
        tensors += result.tensors
        problems += (f"{member.name}: {problem}" for problem in result.problems)
    return Verification(tensors, tuple(problems))


def _verify(
    folder: Path,
    parent: Parent | None,
    slice_: Slice | None,
    kv_from: Parent | None,
    cache: ComparisonCache,
    advance: Advance,
) -> Verification:
    if parent is None:
        return verify_by_manifest(folder, cache, advance)
    claim = claim_of(folder, parent, slice_)
    plan = plan_of(claim, folder, parent, kv_from)
    return verify_by_parent(folder, plan, claim, cache, advance)
