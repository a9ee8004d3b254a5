"""Every file of a checkpoint's folder: known and right, known and free, or named as a problem."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from matformer_lab.checkpoint.card import CARD_FILE, NOTICE_FILE, PICTURE_FILE
from matformer_lab.checkpoint.manifest import MANIFEST_FILE, Manifest, digest_of
from matformer_lab.common.errors import InputError
from matformer_lab.common.files.strict_json import strict_json
from matformer_lab.common.files.untrusted import read_small
from matformer_lab.parent.folder import TEMPLATES_FOLDER
from matformer_lab.parent.weights.headers import TensorInfo
from matformer_lab.parent.weights.index import INDEX_FILE
from matformer_lab.parent.weights.links import path_inside
from matformer_lab.parent.weights.weight_files import SINGLE_FILE

_FREE_FILES: Final = (CARD_FILE, NOTICE_FILE, PICTURE_FILE, ".gitattributes")
_FREE_FOLDERS: Final = (".git", ".cache")
"""What people edit, and what git and the Hub's tools keep beside a checkpoint: nothing loads it."""


def is_free(path: Path) -> bool:
    """Whether a file or folder in a checkpoint's folder may hold whatever it holds."""
    return (path.name in _FREE_FILES and path.is_file()) or (
        path.name in _FREE_FOLDERS and path.is_dir() and not path.is_symlink()
    )


def file_problems(
    folder: Path,
    layout: Mapping[str, TensorInfo],
    manifest: Manifest | None,
    of_parent: Mapping[str, bytes] | None = None,
) -> Iterator[str]:
    """What is wrong with the files that are not weights, and with those that nothing accounts for.

    Args:
        folder: The checkpoint.
        layout: Its tensors; the files that they lie in are checked elsewhere.
        manifest: Its manifest, if it has one.
        of_parent: The parent's files that a slice has too, by name; None: there is no parent to
            compare with.

    Yields:
        A line for each problem, which begins with the file's name.
    """
    weights = {info.file for info in layout.values()}
    own = {"config.json"} | ({INDEX_FILE} if weights != {SINGLE_FILE} else set())
    stated = dict(manifest.files) if manifest else {}
    known = own | stated.keys() | (of_parent or {}).keys()
    for name in sorted(known):
        yield from _known_file(folder, name, stated.get(name), None if name in own else of_parent)
    if manifest:
        for name in sorted(known - stated.keys()):
            yield f"{MANIFEST_FILE}: key 'files' has no digest of {name}"
    if INDEX_FILE in own:
        yield from _index_problems(folder, layout)
    for path in _entries(folder):
        name = path.relative_to(folder).as_posix()
        if name in known | weights or is_free(path):
            continue
        if name != MANIFEST_FILE or manifest is None:
            in_vain = name.endswith(".safetensors")
            what = "is in the folder but not in the index"
            yield f"{name}: {what if in_vain else 'does not belong to the slice'}"


def _entries(folder: Path) -> Iterator[Path]:
    """What lies in a checkpoint's folder; of further chat templates, each."""
    for path in sorted(folder.iterdir()):
        if path.name == TEMPLATES_FOLDER and path.is_dir() and not path.is_symlink():
            yield from sorted(path.iterdir())
        else:
            yield path


def _known_file(
    folder: Path, name: str, digest: str | None, of_parent: Mapping[str, bytes] | None
) -> Iterator[str]:
    try:
        path = path_inside(folder, name, name)
        data = read_small(path) if path.is_file() else None
    except InputError as error:
        yield f"{name}: {error}"
        return
    if data is None:
        yield f"{name}: missing" if not path.exists() else f"{name}: is not a regular file"
    elif digest is not None and digest_of(data) != digest:
        yield f"{name}: does not match the manifest's digest"
    elif of_parent is not None and name not in of_parent:
        yield f"{name}: is not a file of the parent's"
    elif of_parent is not None and data != of_parent[name]:
        yield f"{name}: differs from the parent's"


def _index_problems(folder: Path, layout: Mapping[str, TensorInfo]) -> Iterator[str]:
    """A wrong total_size in the index, whose map is checked where the layout is read."""
    index = strict_json(read_small(folder / INDEX_FILE), INDEX_FILE)
    metadata = index.get("metadata")
    stated = metadata.get("total_size") if isinstance(metadata, Mapping) else None
    actual = sum(info.nbytes for info in layout.values())
    if stated != actual:
        yield f"{INDEX_FILE}: total_size is {stated}, the tensors have {actual}"
