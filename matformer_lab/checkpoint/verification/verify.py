"""Verification: whether a checkpoint is exactly the slice it claims to be, byte for byte."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from matformer_lab.checkpoint.manifest import (
    MANIFEST_FILE,
    Manifest,
    digest_of,
    read_manifest,
)
from matformer_lab.checkpoint.sources import with_local_weights
from matformer_lab.checkpoint.verification.claim import claimed_plan, is_family, members_of
from matformer_lab.checkpoint.verification.comparison import (
    ComparisonCache,
    first_difference,
    in_threads,
    whole_tensor,
    wrong_digest,
)
from matformer_lab.checkpoint.verification.config_differences import config_differences
from matformer_lab.common.errors import InputError
from matformer_lab.common.paths import StrPath
from matformer_lab.common.progress import Advance, Progress, bytes_bar
from matformer_lab.common.strict_json import strict_json
from matformer_lab.common.untrusted import read_small
from matformer_lab.parent.folder import read_config, read_layout
from matformer_lab.parent.headers import TensorInfo
from matformer_lab.parent.hub import downloaded, looks_like_repo_id
from matformer_lab.parent.index import INDEX_FILE
from matformer_lab.parent.opening import open_parent
from matformer_lab.parent.parent import Parent
from matformer_lab.slicing.notation.catalog import resolve_slice
from matformer_lab.slicing.plan import TensorPlan
from matformer_lab.slicing.slice import Slice

_COMPARED_ITSELF: Final = ("config.json", INDEX_FILE)
"""Files whose contents are compared, so that a wrong digest would only repeat the finding."""


@dataclass(frozen=True)
class Verification:
    """The result of a verification.

    Attributes:
        tensors: How many tensors were compared, byte by byte or by digest.
        problems: One line for each problem found.

    Examples:
        >>> import matformer_lab as ml
        >>> checkpoint = ml.write_slices("tiny", "1/8", "eighth").folder
        >>> result = ml.verify_checkpoint(checkpoint, "tiny", "1/4")
        >>> result.ok
        False
        >>> result.problems[0]
        'config.json: intermediate_size[0] is 8, expected 16'
    """

    tensors: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether no problem was found."""
        return not self.problems


class _Comparison(NamedTuple):
    """A tensor that was found with the dtype and shape that it should have."""

    expected: TensorPlan
    found: TensorInfo


def verify_checkpoint(
    folder: StrPath,
    parent: Parent | StrPath | None = None,
    slice_: Slice | str | None = None,
    *,
    progress: Progress = True,
) -> Verification:
    """Check that a checkpoint is exactly the slice that it claims to be.

    With a parent, every tensor is recomputed from it and compared byte by byte. Without one, the
    checkpoint is checked against the digests in its own manifest. Of a family, every member is
    checked; a file that members share is read once.

    Args:
        folder: A checkpoint, or a family; or a Hub id (`org/name@revision`), whose files are
            downloaded.
        parent: What it was cut from: an opened parent, or what `open_parent` accepts.
        slice_: The slice that it has to be. None: the one in its manifest or, without a manifest
            and if no layer was skipped, the widths in its config.json.
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
    opened = parent if isinstance(parent, Parent | None) else open_parent(parent)
    if slice_ is not None:
        if opened is None:
            raise InputError("`slice` needs `parent`, the checkpoint that it is a slice of")
        if is_family(folder):
            raise InputError(
                f"{folder}: is a family; leave out `slice`, or give the folder of one member"
            )
        slice_ = resolve_slice(slice_, opened) if isinstance(slice_, str) else slice_
    members = members_of(folder)
    if opened is not None and opened.folder is None:
        claims = [claimed_plan(member, opened, slice_) for member in members]
        opened = with_local_weights(claims, None, progress=progress is True)[0].parent
    cache = ComparisonCache()
    with bytes_bar(f"verify {folder}", _weight_bytes(members), progress) as advance:
        if not is_family(folder):
            return _verify(folder, opened, slice_, cache, advance)
        return _verify_members(members, opened, cache, advance)


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
        *_name_problems(reference.keys(), layout.keys()),
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
            comparable.append(_Comparison(whole_tensor(name, theirs), ours))
    with bytes_bar(f"compare {folder}", _weight_bytes([folder]), progress) as advance:

        def compare(tensor: _Comparison) -> str | None:
            return first_difference(other, tensor.expected, folder, tensor.found, advance)

        problems += in_threads(compare, comparable)
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
    members: Sequence[Path], parent: Parent | None, cache: ComparisonCache, advance: Advance
) -> Verification:
    tensors = 0
    problems: list[str] = []
    for member in members:
        try:
            result = _verify(member, parent, None, cache, advance)
        except InputError as error:
            result = Verification(0, (str(error),))
        tensors += result.tensors
        problems += (f"{member.name}: {problem}" for problem in result.problems)
    return Verification(tensors, tuple(problems))


def _verify(
    folder: Path,
    parent: Parent | None,
    slice_: Slice | None,
    cache: ComparisonCache,
    advance: Advance,
) -> Verification:
    if parent is None:
        return _verify_by_manifest(folder, cache, advance)
    return _verify_by_parent(folder, parent, slice_, cache, advance)


def _verify_by_parent(
    folder: Path, parent: Parent, slice_: Slice | None, cache: ComparisonCache, advance: Advance
) -> Verification:
    config = read_config(folder)
    plan = claimed_plan(folder, parent, slice_)
    try:
        layout = read_layout(folder)
    except InputError as error:
        return Verification(0, (str(error),))
    manifest = read_manifest(folder)
    expected = {tensor.name: tensor for tensor in plan.tensors}
    problems = [
        *config_differences(plan.config, config),
        *(_side_file_problems(folder, manifest, _COMPARED_ITSELF) if manifest else ()),
        *_file_problems(folder, layout),
        *_name_problems(expected.keys(), layout.keys()),
    ]
    comparable = []
    for name in sorted(expected.keys() & layout.keys(), key=lambda n: layout[n].offset):
        tensor, found = expected[name], layout[name]
        if (tensor.dtype, tensor.shape) != (found.dtype, found.shape):
            problems.append(
                f"tensor {name}: {found.dtype} {list(found.shape)}, "
                f"expected {tensor.dtype} {list(tensor.shape)}"
            )
        else:
            comparable.append(_Comparison(tensor, found))

    def compare(pair: _Comparison) -> str | None:
        tensor, info = pair
        part = (tensor.source, tensor.axis, tensor.ranges)
        return cache.once(
            folder,
            info,
            part,
            lambda: first_difference(parent.local, tensor, folder, info, advance),
        )

    problems += in_threads(compare, comparable)
    return Verification(len(comparable), tuple(problems))


def _verify_by_manifest(folder: Path, cache: ComparisonCache, advance: Advance) -> Verification:
    manifest = read_manifest(folder)
    if manifest is None:
        raise InputError(f"{folder}: has no {MANIFEST_FILE}; give the `parent` to check it against")
    try:
        layout = read_layout(folder)
    except InputError as error:
        return Verification(0, (str(error),))
    problems = [
        *_file_problems(folder, layout),
        *_name_problems(manifest.tensors.keys(), layout.keys()),
        *_side_file_problems(folder, manifest),
    ]

    def check(name: str) -> str | None:
        expected = manifest.tensors[name]
        return cache.once(
            folder,
            layout[name],
            expected,
            lambda: wrong_digest(folder, whole_tensor(name, layout[name]), expected, advance),
        )

    names = sorted(manifest.tensors.keys() & layout.keys(), key=lambda n: layout[n].offset)
    problems += in_threads(check, names)
    return Verification(len(names), tuple(problems))


def _name_problems(expected: Iterable[str], found: Iterable[str]) -> Iterable[str]:
    expected, found = set(expected), set(found)
    yield from (f"tensor {name}: missing" for name in sorted(expected - found))
    yield from (f"tensor {name}: not part of the slice" for name in sorted(found - expected))


def _file_problems(folder: Path, layout: Mapping[str, TensorInfo]) -> Iterable[str]:
    """Weight files that the index does not mention, and a wrong total_size in the index."""
    used = {info.file for info in layout.values()}
    for path in sorted(folder.glob("*.safetensors")):
        if path.name not in used:
            yield f"{path.name}: is in the folder but not in the index"
    if (folder / INDEX_FILE).exists():
        index = strict_json(read_small(folder / INDEX_FILE), INDEX_FILE)
        metadata = index.get("metadata")
        stated = metadata.get("total_size") if isinstance(metadata, Mapping) else None
        actual = sum(info.nbytes for info in layout.values())
        if stated != actual:
            yield f"{INDEX_FILE}: total_size is {stated}, the tensors have {actual}"


def _side_file_problems(
    folder: Path, manifest: Manifest, ignored: Sequence[str] = ()
) -> Iterable[str]:
    for name, digest in manifest.files.items():
        if name in ignored:
            continue
        path = folder / name
        if Path(name).name != name or not path.is_file():
            yield f"{name}: missing"
        elif digest_of(read_small(path)) != digest:
            yield f"{name}: does not match the manifest's digest"
