"""Verification: whether a checkpoint is exactly the slice it claims to be, byte for byte."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from matformer_lab.checkpoint.contents import read_side_files
from matformer_lab.checkpoint.manifest import (
    MANIFEST_FILE,
    Manifest,
    ManifestFilled,
    ManifestLink,
    read_manifest,
)
from matformer_lab.checkpoint.sources import with_local_weights
from matformer_lab.checkpoint.verification.accounting import file_problems
from matformer_lab.checkpoint.verification.claim import (
    Claim,
    claim_of,
    claimed_plan,
    is_family,
    members_of,
    plan_of,
    strangers_of,
)
from matformer_lab.checkpoint.verification.comparison import (
    ComparisonCache,
    first_difference,
    in_threads,
    not_finite,
    whole_tensor,
    wrong_digest,
)
from matformer_lab.checkpoint.verification.config_differences import (
    config_differences,
    config_problems,
)
from matformer_lab.checkpoint.verification.saved_again import Kind, saved_again, was_saved_again
from matformer_lab.common.errors import InputError
from matformer_lab.common.paths import StrPath
from matformer_lab.common.progress import Advance, Progress, bytes_bar
from matformer_lab.gemma3n import is_multimodal, text_part
from matformer_lab.parent.folder import open_folder, read_config, read_layout
from matformer_lab.parent.headers import TensorInfo
from matformer_lab.parent.hub import downloaded, looks_like_repo_id
from matformer_lab.parent.opening import open_parent
from matformer_lab.parent.parent import Parent
from matformer_lab.slicing.notation.catalog import resolve_slice
from matformer_lab.slicing.plan import Plan, TensorPlan
from matformer_lab.slicing.slice import Slice


@dataclass(frozen=True)
class Verification:
    """The result of a verification.

    Attributes:
        tensors: How many tensors were compared, byte by byte or by digest.
        problems: One line for each problem found; the first says what became of a slice that was
            tuned or saved again.
        kind: `exact`, the slice byte for byte, which alone is `ok`; `saved again`, its tensors in
            other files; `tuned`, other tensors in its shapes; `quantised`; or `different`.
        differing: The names of the tensors of such a slice that are not the parent's.

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
    kind: Kind = "different"
    differing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Nothing to find fault with is the slice itself."""
        if not self.problems:
            object.__setattr__(self, "kind", "exact")

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
    opened = parent if isinstance(parent, Parent | None) else open_parent(parent)
    other = kv_from if isinstance(kv_from, Parent | None) else open_parent(kv_from)
    if other is not None and opened is None:
        raise InputError("`kv_from` needs `parent`, the checkpoint that lacked the K/V")
    if slice_ is not None:
        if opened is None:
            raise InputError("`slice` needs `parent`, the checkpoint that it is a slice of")
        if is_family(folder):
            raise InputError(
                f"{folder}: is a family; leave out `slice`, or give the folder of one member"
            )
        slice_ = resolve_slice(slice_, opened) if isinstance(slice_, str) else slice_
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
    problems = [f"{name}: is no part of the family" for name in strangers_of(family)]
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
        return _verify_by_manifest(folder, cache, advance)
    claim = claim_of(folder, parent, slice_)
    plan = plan_of(claim, folder, parent, kv_from)
    return _verify_by_parent(folder, plan, claim, cache, advance)


def _verify_by_parent(
    folder: Path, plan: Plan, claim: Claim, cache: ComparisonCache, advance: Advance
) -> Verification:
    config = read_config(folder)
    try:
        layout = read_layout(folder)
    except InputError as error:
        return Verification(0, (str(error),))
    manifest = read_manifest(folder)
    expected = {tensor.name: tensor for tensor in plan.tensors}
    problems = [
        *_config_problems(plan, config, folder, claim),
        *_name_problems(expected.keys(), layout.keys()),
    ]
    is_other_model = bool(problems)
    if manifest:
        problems += _seal_problems(manifest)
        problems += _claim_problems(manifest, claim.link or manifest.link, plan, layout.keys())
    problems += _not_said_yet(
        problems, file_problems(folder, layout, manifest, read_side_files(plan))
    )
    comparable, differing = [], []
    unread = _from_elsewhere(plan, claim, manifest)
    for name in sorted(expected.keys() & layout.keys(), key=lambda n: layout[n].offset):
        tensor, found = expected[name], layout[name]
        same_dtype = tensor.dtype == found.dtype or name in unread
        if tensor.shape != found.shape or not same_dtype:
            differing.append(name)
            problems.append(
                f"tensor {name}: {found.dtype} {list(found.shape)}, "
                f"expected {tensor.dtype} {list(tensor.shape)}"
            )
        else:
            comparable.append(_Comparison(tensor, found))

    def compare(pair: _Comparison) -> str | None:
        tensor, info = pair
        digest = manifest.tensors.get(tensor.name) if manifest else None
        if tensor.name in unread:
            whole = whole_tensor(tensor.name, info)
            wrong = partial(wrong_digest, folder, whole, unread[tensor.name], advance)
            return cache.once(folder, info, unread[tensor.name], wrong)
        part = (tensor.source, tensor.axis, tensor.ranges, digest)
        source = plan.parent.local
        difference = partial(first_difference, source, tensor, folder, info, advance, digest)
        return cache.once(folder, info, part, difference)

    unequal = in_threads(lambda pair: (pair.expected.name, compare(pair)), comparable)
    wrong = {name: problem for name, problem in unequal if problem is not None}
    problems += wrong.values()
    differing = sorted({*differing, *wrong})
    is_other_model |= bool(differing)
    if is_other_model and was_saved_again(folder, manifest if claim.link else None):
        became = saved_again(plan, config, layout, differing, folder)
        if became is not None:
            floats = [name for name in differing if layout[name].dtype in ("BF16", "F16", "F32")]
            damaged = in_threads(lambda name: not_finite(folder, name, layout[name]), floats)
            lines = (became.sentence, *(line for line in damaged if line is not None))
            return Verification(len(comparable), lines, became.kind, tuple(differing))
    return Verification(len(comparable), tuple(problems))


def _config_problems(
    plan: Plan, config: Mapping[str, Any], folder: Path, claim: Claim
) -> Iterable[str]:
    """Where the config is not the slice's.

    A slice of a slice may write the widths in the other of the two ways (a list, or one number for
    all layers) than the same slice of the first parent.
    """
    expected = plan.config
    part = text_part(config)
    manifest = read_manifest(folder)
    if claim.link and manifest and claim.link != manifest.link:
        mine, theirs = plan.text.intermediate_size, part.get("intermediate_size")
        if theirs in (list(mine), mine[0]) and (isinstance(theirs, list) or len({*mine}) == 1):
            text = {**text_part(expected), "intermediate_size": theirs}
            expected = {**expected, "text_config": text} if is_multimodal(expected) else text
    return config_problems(expected, config, folder)


def _from_elsewhere(plan: Plan, claim: Claim, manifest: Manifest | None) -> dict[str, str]:
    """The manifest's digests of K/V from a checkpoint that is not at hand."""
    filled = claim.link.filled if claim.link else None
    if manifest is None or filled is None or filled.kv_from is None or plan.filling.kv_from:
        return {}
    return {name: manifest.tensors.get(name, "") for name in plan.filling.kv_tensors}


def _verify_by_manifest(folder: Path, cache: ComparisonCache, advance: Advance) -> Verification:
    manifest = read_manifest(folder)
    if manifest is None:
        raise InputError(f"{folder}: has no {MANIFEST_FILE}; give the `parent` to check it against")
    try:
        layout = read_layout(folder)
    except InputError as error:
        return Verification(0, (str(error),))
    problems = [
        *_name_problems(manifest.tensors.keys(), layout.keys()),
        *_seal_problems(manifest),
        *file_problems(folder, layout, manifest),
    ]
    if not problems:
        problems += _as_a_model(folder, manifest)

    def check(name: str) -> str | None:
        expected = manifest.tensors[name]
        whole = whole_tensor(name, layout[name])
        wrong = partial(wrong_digest, folder, whole, expected, advance)
        return cache.once(folder, layout[name], expected, wrong)

    names = sorted(manifest.tensors.keys() & layout.keys(), key=lambda n: layout[n].offset)
    problems += filter(None, in_threads(check, names))
    return Verification(len(names), tuple(problems))


def _name_problems(expected: Iterable[str], found: Iterable[str]) -> Iterator[str]:
    expected, found = set(expected), set(found)
    yield from (f"tensor {name}: missing" for name in sorted(expected - found))
    yield from (f"tensor {name}: not part of the slice" for name in sorted(found - expected))


def _not_said_yet(said: Sequence[str], problems: Iterable[str]) -> list[str]:
    """Those about files of which nothing was said, as a wrong digest would only repeat it."""
    files = {problem.partition(":")[0] for problem in said}
    return [problem for problem in problems if problem.partition(":")[0] not in files]


def _seal_problems(manifest: Manifest) -> Iterator[str]:
    if manifest.seal is not None and manifest.seal != manifest.expected_seal:
        yield f"{MANIFEST_FILE}: was changed since it was written"


def _claim_problems(
    manifest: Manifest, link: ManifestLink, plan: Plan, tensors: Iterable[str]
) -> Iterator[str]:
    """Where a manifest says something else than the slice of the parent calls for."""
    for name in sorted(set(tensors) ^ manifest.tensors.keys()):
        what = "has a digest of" if name in manifest.tensors else "has no digest of"
        yield f"{MANIFEST_FILE}: key 'tensors' {what} {name}"
    if link.to_slice().digest != plan.slice.digest:
        yield f"{MANIFEST_FILE}: key 'slice' is another slice"
    if manifest.text_only != plan.text_only:
        yield f"{MANIFEST_FILE}: text_only is {manifest.text_only}, expected {plan.text_only}"
    filled, should = link.filled or ManifestFilled(), plan.filling
    if (set(filled.config), filled.kv_layers) != (set(should.config), should.kv_layers):
        yield f"{MANIFEST_FILE}: key 'filled' is not what the parent lacks"
    # Manifests without a seal may hold a fingerprint of another kind (of samples), and so do those
    # of a Hub parent (of the commit).
    same_kind = manifest.seal is not None and link.parent.revision == plan.parent.revision
    if same_kind and link.parent.fingerprint != plan.parent.fingerprint:
        yield (
            f"{MANIFEST_FILE}: parent.fingerprint is {link.parent.fingerprint[:16]}..., "
            f"the parent's is {plan.parent.fingerprint[:16]}..."
        )


def _as_a_model(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Where a whole folder is no Gemma 3n, or not the one that its manifest describes."""
    try:
        model = open_folder(folder)
    except InputError as error:
        yield str(error)
        return
    if model.text.intermediate_size != manifest.slice.widths:
        yield f"{MANIFEST_FILE}: slice.widths are not the intermediate_size of config.json"
    if manifest.text_only is is_multimodal(model.config):
        yield f"{MANIFEST_FILE}: text_only is {manifest.text_only}, config.json says otherwise"
