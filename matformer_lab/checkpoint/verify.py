"""Is this checkpoint exactly that slice? Recomputed from the parent, byte for byte."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from matformer_lab.checkpoint.manifest import (
    MANIFEST_FILE,
    Manifest,
    digest_of,
    read_manifest,
    tensor_digest,
)
from matformer_lab.checkpoint.tensor_bytes import Bytes, child_bytes, thread_scratch
from matformer_lab.common.errors import InputError
from matformer_lab.common.progress import Advance, quiet
from matformer_lab.common.untrusted import open_regular, read_exactly, read_small
from matformer_lab.gemma3n import is_multimodal, read_text_config
from matformer_lab.parent.headers import TensorInfo, strict_json
from matformer_lab.parent.parent import INDEX_FILE, Parent, read_config, read_layout
from matformer_lab.slicing.plan import Plan, TensorPlan, make_plan
from matformer_lab.slicing.slices import Slice

_T = TypeVar("_T")
_THREADS: Final = 4
_ABSENT: Final = object()
_COMPARED_ITSELF: Final = ("config.json", INDEX_FILE)
"""Files of which a digest would only say again that they differ."""


@dataclass(frozen=True)
class Verification:
    """`tensors`: how many were compared byte for byte. `problems`: one line each, or none."""

    tensors: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems


def verify_checkpoint(
    folder: Path,
    parent: Parent,
    slice_: Slice | None = None,
    *,
    advance: Advance = quiet,
    compared: "Compared | None" = None,
) -> Verification:
    """Check `folder` against the slice of `parent` that it claims to be.

    The claim is `slice_` if given, else the folder's manifest, else (nothing skipped) the widths in
    its config.json. Tokenizer and other files are compared with the manifest's
    digests, if there is one. `compared` remembers what was compared before, for members of a family
    that share files. Raises `InputError` when there is no folder or no claim.
    """
    compared = Compared() if compared is None else compared
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
            comparable.append((tensor, found))

    def compare(pair: tuple[TensorPlan, TensorInfo]) -> str | None:
        tensor, info = pair
        selection = (tensor.source, tensor.axis, tensor.ranges)
        return compared.once(
            (folder, info, selection),
            lambda: _first_difference(parent.local, tensor, folder, info, advance),
        )

    problems += _in_threads(compare, comparable)
    return Verification(len(comparable), tuple(problems))


def is_family(folder: Path) -> bool:
    """Whether `folder` holds checkpoints written by this tool rather than one checkpoint."""
    return not (folder / "config.json").exists() and any(folder.glob(f"*/{MANIFEST_FILE}"))


def members_of(folder: Path) -> list[Path]:
    """The checkpoints of a family; the folder itself if it is one checkpoint."""
    if not is_family(folder):
        return [folder]
    return sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")


def verify_family(
    folder: Path, parent: Parent | None = None, *, advance: Advance = quiet
) -> Verification:
    """Check every member of a family, against `parent` or (None) against its own manifest.

    A file that members share is read once.
    """
    compared, tensors = Compared(), 0
    problems: list[str] = []
    for member in members_of(folder):
        try:
            if parent is None:
                result = verify_alone(member, advance=advance, compared=compared)
            else:
                result = verify_checkpoint(member, parent, advance=advance, compared=compared)
        except InputError as error:
            result = Verification(0, (str(error),))
        tensors += result.tensors
        problems += (f"{member.name}: {problem}" for problem in result.problems)
    return Verification(tensors, tuple(problems))


class Compared:
    """Answers of earlier comparisons, by the file on disk, the place in it, and the question."""

    def __init__(self) -> None:
        self._known: dict[Hashable, str | None] = {}

    def once(
        self, key: tuple[Path, TensorInfo, Hashable], compare: Callable[[], str | None]
    ) -> str | None:
        """`compare()`, or what it said when the same bytes were asked about before."""
        folder, info, question = key
        stat = (folder / info.file).stat()
        asked = (stat.st_dev, stat.st_ino, stat.st_mtime_ns, info.offset, info.nbytes, question)
        if asked not in self._known:
            self._known[asked] = compare()
        return self._known[asked]


def verify_alone(
    folder: Path, *, advance: Advance = quiet, compared: Compared | None = None
) -> Verification:
    """Check `folder` against its own manifest: every tensor's and file's digest."""
    compared = Compared() if compared is None else compared
    manifest = read_manifest(folder)
    if manifest is None:
        raise InputError(f"{folder}: has no {MANIFEST_FILE}; give --parent to check it against")
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
        return compared.once(
            (folder, layout[name], expected),
            lambda: _wrong_digest(folder, _whole(name, layout[name]), expected, advance),
        )

    names = sorted(manifest.tensors.keys() & layout.keys(), key=lambda n: layout[n].offset)
    problems += _in_threads(check, names)
    return Verification(len(names), tuple(problems))


def _wrong_digest(folder: Path, tensor: TensorPlan, expected: str, advance: Advance) -> str | None:
    digest = tensor_digest(tensor.dtype, tensor.shape)
    for piece in child_bytes(folder, tensor, thread_scratch()):
        digest.update(piece)
        advance(len(piece))
    good = digest.hexdigest() == expected
    return None if good else f"tensor {tensor.name}: does not match the manifest's digest"


def compare_checkpoints(folder: Path, other: Path, *, advance: Advance = quiet) -> Verification:
    """Do two checkpoints hold the same tensors and config, however they are sharded?"""
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
            comparable.append((_whole(name, theirs), ours))

    def compare(pair: tuple[TensorPlan, TensorInfo]) -> str | None:
        return _first_difference(other, pair[0], folder, pair[1], advance)

    problems += _in_threads(compare, comparable)
    return Verification(len(comparable), tuple(problems))


def claimed_plan(folder: Path, parent: Parent, slice_: Slice | None = None) -> Plan:
    """What `folder` should be: the plan of `slice_`, or of the slice that it claims to be."""
    config = read_config(folder)
    slice_ = slice_ or claimed_slice(folder, config, parent)
    return make_plan(parent, slice_, text_only=not is_multimodal(config))


def claimed_slice(folder: Path, config: Mapping[str, Any], parent: Parent) -> Slice:
    """The slice that a checkpoint folder says it is."""
    manifest = read_manifest(folder)
    if manifest is not None:
        claimed = manifest.to_slice()
        layers = parent.text.num_hidden_layers
        fits = set(claimed.skipped) <= set(range(layers))
        if not fits or len(claimed.kept(layers)) != len(claimed.widths):
            raise InputError(f"{folder / MANIFEST_FILE}: its slice does not fit the parent")
        return claimed
    text = read_text_config(config, str(folder / "config.json"))
    if text.num_hidden_layers != parent.text.num_hidden_layers:
        raise InputError(
            f"{folder}: has no {MANIFEST_FILE} to say which layers were skipped; give --slice"
        )
    return Slice(folder.name, text.intermediate_size)


def config_differences(expected: Any, found: Any, at: str = "config.json") -> Iterable[str]:
    """Every key at which two configs differ, as `config.json: text_config.x is 1, expected 2`."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for key in sorted(expected.keys() | found.keys()):
            where = f"{at}: {key}" if at == "config.json" else f"{at}.{key}"
            yield from config_differences(
                expected.get(key, _ABSENT), found.get(key, _ABSENT), where
            )
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for position, (wanted, got) in enumerate(zip(expected, found, strict=True)):
            yield from config_differences(wanted, got, f"{at}[{position}]")
    elif expected != found or type(expected) is not type(found):
        yield f"{at} is {_shown(found)}, expected {_shown(expected)}"


def _shown(value: Any) -> str:
    return "absent" if value is _ABSENT else f"{value!r:.80}"


def _whole(name: str, info: TensorInfo) -> TensorPlan:
    return TensorPlan(name, name, info)


def _name_problems(expected: Iterable[str], found: Iterable[str]) -> Iterable[str]:
    expected, found = set(expected), set(found)
    yield from (f"tensor {name}: missing" for name in sorted(expected - found))
    yield from (f"tensor {name}: not part of the slice" for name in sorted(found - expected))


def _file_problems(folder: Path, layout: Mapping[str, TensorInfo]) -> Iterable[str]:
    """Weight files that nothing refers to, and an index whose total_size is not the truth."""
    used = {info.file for info in layout.values()}
    for path in sorted(folder.glob("*.safetensors")):
        if path.name not in used:
            yield f"{path.name}: is in the folder but not in the index"
    if (folder / INDEX_FILE).exists():
        index = strict_json(read_small(folder / INDEX_FILE), INDEX_FILE)
        metadata = index.get("metadata")
        told = metadata.get("total_size") if isinstance(metadata, Mapping) else None
        true = sum(info.nbytes for info in layout.values())
        if told != true:
            yield f"{INDEX_FILE}: total_size is {told}, the tensors have {true}"


def _side_file_problems(folder: Path, manifest: Manifest, but: Sequence[str] = ()) -> Iterable[str]:
    for name, digest in manifest.files.items():
        if name in but:
            continue
        path = folder / name
        if Path(name).name != name or not path.is_file():
            yield f"{name}: missing"
        elif digest_of(read_small(path)) != digest:
            yield f"{name}: does not match the manifest's digest"


def _first_difference(
    source_folder: Path, tensor: TensorPlan, folder: Path, info: TensorInfo, advance: Advance
) -> str | None:
    """Compare one tensor of `folder` with what it should be; None if equal."""
    path = folder / info.file
    done = 0
    scratch = thread_scratch()
    with open_regular(path) as file:
        for piece in child_bytes(source_folder, tensor, scratch):
            ours = scratch.buffer("compare", len(piece))
            read_exactly(file, ours.data, info.offset + done, path)
            theirs = np.frombuffer(piece, dtype=np.uint8)
            if not _equal(ours, theirs):
                different = ours != theirs
                element = (done + int(different.argmax())) // (info.nbytes // info.numel)
                index = [int(i) for i in np.unravel_index(element, info.shape)]
                return f"tensor {tensor.name}: differs from the parent's, first at {index}"
            done += len(piece)
            advance(len(piece))
    return None


def _equal(left: Bytes, right: Bytes) -> bool:
    """Compared in words of 8 bytes, which is several times faster than byte by byte."""
    words = len(left) // 8 * 8
    return np.array_equal(left[:words].view(np.uint64), right[:words].view(np.uint64)) and (
        np.array_equal(left[words:], right[words:])
    )


def _in_threads(check: Callable[[_T], str | None], items: Iterable[_T]) -> list[str]:
    with ThreadPoolExecutor(_THREADS) as pool:
        return [problem for problem in pool.map(check, items) if problem is not None]
