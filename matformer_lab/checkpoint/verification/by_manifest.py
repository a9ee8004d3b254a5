"""A checkpoint against its own manifest, where there is no parent at hand."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from matformer_lab.checkpoint.manifest import MANIFEST_FILE, Manifest, read_manifest
from matformer_lab.checkpoint.verification.accounting import file_problems
from matformer_lab.checkpoint.verification.comparison import (
    ComparisonCache,
    in_threads,
    whole_tensor,
    wrong_digest,
)
from matformer_lab.checkpoint.verification.result import Verification, name_problems, seal_problems
from matformer_lab.common.errors import InputError
from matformer_lab.common.progress import Advance
from matformer_lab.gemma3n import is_multimodal
from matformer_lab.parent.folder import open_folder, read_layout


def verify_by_manifest(folder: Path, cache: ComparisonCache, advance: Advance) -> Verification:
    """Compare a checkpoint with the digests of its manifest.

    Args:
        folder: The checkpoint's.
        cache: What was compared before, of files that several checkpoints share.
        advance: Called with the number of bytes compared.

    Raises:
        InputError: It has no manifest.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise InputError(f"{folder}: has no {MANIFEST_FILE}; give the `parent` to check it against")
    try:
        layout = read_layout(folder)
    except InputError as error:
        return Verification(0, (str(error),))
    problems = [
        *name_problems(manifest.tensors.keys(), layout.keys()),
        *seal_problems(manifest),
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


def _as_a_model(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Where a whole folder is not a Gemma 3n, or not the one that its manifest describes."""
    try:
        model = open_folder(folder)
    except InputError as error:
        yield str(error)
        return
    if model.text.intermediate_size != manifest.slice.widths:
        yield f"{MANIFEST_FILE}: slice.widths are not the intermediate_size of config.json"
    if manifest.text_only is is_multimodal(model.config):
        yield f"{MANIFEST_FILE}: text_only is {manifest.text_only}, config.json says otherwise"
