"""A checkpoint against the plan of a slice: every tensor recomputed from the parent.

What differs because it was tuned or saved again is told apart from what is wrong.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matformer_lab.checkpoint.contents import read_side_files
from matformer_lab.checkpoint.manifest import (
    MANIFEST_FILE,
    Manifest,
    ManifestFilled,
    ManifestLink,
    read_manifest,
)
from matformer_lab.checkpoint.verification.accounting import file_problems
from matformer_lab.checkpoint.verification.claim import Claim
from matformer_lab.checkpoint.verification.comparison import (
    Comparable,
    ComparisonCache,
    first_difference,
    in_threads,
    not_finite,
    whole_tensor,
    wrong_digest,
)
from matformer_lab.checkpoint.verification.config_differences import config_problems
from matformer_lab.checkpoint.verification.result import Verification, name_problems, seal_problems
from matformer_lab.checkpoint.verification.saved_again import saved_again, was_saved_again
from matformer_lab.common.errors import InputError
from matformer_lab.common.progress import Advance
from matformer_lab.gemma3n import is_multimodal, text_part
from matformer_lab.parent.folder import read_config, read_layout
from matformer_lab.slicing.plan import Plan


def verify_by_parent(
    folder: Path, plan: Plan, claim: Claim, cache: ComparisonCache, advance: Advance
) -> Verification:
    """Compare a checkpoint with the slice that it claims to be.

    Args:
        folder: The checkpoint's.
        plan: What it has to hold.
        claim: What it says that it is.
        cache: What was compared before, of files that several checkpoints share.
        advance: Called with the number of bytes compared.
    """
    config = read_config(folder)
    try:
        layout = read_layout(folder)
    except InputError as error:
        return Verification(0, (str(error),))
    manifest = read_manifest(folder)
    expected = {tensor.name: tensor for tensor in plan.tensors}
    problems = [
        *_config_problems(plan, config, folder, claim),
        *name_problems(expected.keys(), layout.keys()),
    ]
    is_other_model = bool(problems)
    if manifest:
        problems += seal_problems(manifest)
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
            comparable.append(Comparable(tensor, found))

    def compare(pair: Comparable) -> str | None:
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


def _not_said_yet(said: Sequence[str], problems: Iterable[str]) -> list[str]:
    """Those about files of which nothing was said, as a wrong digest would only repeat it."""
    files = {problem.partition(":")[0] for problem in said}
    return [problem for problem in problems if problem.partition(":")[0] not in files]


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
