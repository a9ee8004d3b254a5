"""Parents on the Hub, through huggingface_hub: headers to plan a slice, files to write one."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from matformer_lab.common.errors import InputError, one_line
from matformer_lab.parent.folder import open_folder, parse_config
from matformer_lab.parent.parent import Parent, build_parent, parent_of_candidates
from matformer_lab.parent.references import did_you_mean
from matformer_lab.parent.weights.headers import TensorInfo, header_length, parse_header
from matformer_lab.parent.weights.weight_files import WeightFiles, candidates, read_weight_files

if TYPE_CHECKING:
    from huggingface_hub import HfFileSystem

_TRIES: Final = 5
_REPO_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", re.ASCII)


def looks_like_repo_id(ref: str) -> bool:
    """Whether `ref` has the form `org/name` or `org/name@revision`, as the Hub allows them."""
    if not _REPO_ID.fullmatch(ref) or ".." in ref:
        return False
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(_parse_ref(ref).repo_id)
    except HFValidationError:  # such as ./name, or one that ends in a dot
        return False
    return True


class _RepoRef(NamedTuple):
    repo_id: str
    revision: str | None


def _parse_ref(ref: str) -> _RepoRef:
    repo_id, _, revision = ref.partition("@")
    return _RepoRef(repo_id, revision or None)


def open_remote(ref: str) -> Parent:
    """Open a Hub repository, reading its config.json and, by range, its safetensors headers.

    With `HF_HUB_OFFLINE` set, only the Hub's cache is read.

    Args:
        ref: `org/name` or `org/name@revision`.

    Returns:
        The parent, without a folder; from the cache with one.

    Raises:
        InputError: The repository is gated, is missing, is not a Gemma 3n checkpoint, cannot be
            reached, or is not in the cache when offline.
    """
    from huggingface_hub import constants

    repo_id, revision = _parse_ref(ref)
    if constants.HF_HUB_OFFLINE:
        cached = _from_cache(ref)
        if cached is None:
            raise InputError(
                f"{ref}: not in the Hub's cache, and HF_HUB_OFFLINE is set; unset it to download, "
                "or give a local checkpoint folder"
            )
        return cached
    try:
        with explained(repo_id, revision):
            return _from_hub(ref)
    except HubUnreachableError as error:
        try:
            cached = _from_cache(ref)
        except InputError:  # the cache has a part of it
            cached = None
        if cached is None:
            raise
        note = f"{error.short}; the Hub's cache has commit {cached.revision}, which is used"
        return replace(cached, notes=(*cached.notes, note))


def _from_cache(ref: str) -> Parent | None:
    """The parent from the Hub's cache; None if it is not there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    repo_id, revision = _parse_ref(ref)
    try:
        folder = Path(snapshot_download(repo_id, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return replace(open_folder(folder, ref=ref, name=repo_id), revision=folder.name)


def _from_hub(ref: str) -> Parent:
    from huggingface_hub import HfApi, HfFileSystem, hf_hub_download

    repo_id, revision = _parse_ref(ref)
    info = HfApi().model_info(repo_id, revision=revision)
    names = [sibling.rfilename for sibling in info.siblings or ()]
    found = candidates(name for name in names if "/" not in name)
    if "config.json" not in names:
        raise InputError(f"{repo_id}: {_no_checkpoint(names)}")
    if not found:
        raise InputError(f"{repo_id}: the repository has no safetensors weights")
    path = Path(hf_hub_download(repo_id, "config.json", revision=info.sha))
    config = parse_config(path.read_bytes(), f"{ref}: config.json")
    files, root = HfFileSystem(), f"{repo_id}@{info.sha}"

    def build(weights: WeightFiles) -> Parent:
        tensors = read_weight_files(
            weights,
            lambda file: _remote_header(files, root, file),
            lambda file: bytes(files.cat_file(f"{root}/{file}")),
            repo_id,
        )
        return build_parent(
            ref=ref, name=repo_id, config=config, tensors=tensors, folder=None, revision=info.sha
        )

    return parent_of_candidates(found, build, ref)


def _no_checkpoint(names: list[str]) -> str:
    if "adapter_config.json" in names:
        return (
            "is an adapter, not a checkpoint; merge it into its base model first (PEFT: "
            "merge_and_unload) and give the result"
        )
    if any(name.endswith(".gguf") for name in names):
        return "holds GGUF files, which are made from a checkpoint; give the checkpoint"
    return "the repository has no config.json"


def read_range(files: Any, path: str, start: int, stop: int, size: int) -> bytes:
    """Bytes `start` up to `stop` of a file on the Hub, requested alone.

    huggingface_hub retries failed requests; this retries those whose answer is too short.

    Args:
        files: An `HfFileSystem`.
        path: The file, as `org/name@revision/file`.
        start: The first byte.
        stop: The byte after the last.
        size: Bytes of the whole file.

    Raises:
        InputError: Every answer was too short.
        OSError: The Hub cannot be reached; see `explained`.
    """
    for attempt in range(_TRIES):
        # Without cache_type="none", 5 MB are read ahead, however little is asked for.
        with files.open(path, "rb", cache_type="none", size=size) as file:
            file.seek(start)
            data: bytes = file.read(stop - start)
        if len(data) == stop - start:
            return data
        time.sleep(0.1 * 2**attempt)
    raise InputError(
        f"{path}: asked for {stop - start:,} bytes {_TRIES} times, the server sent only "
        f"{len(data):,}; run again to continue (what is fetched is kept)"
    )


def _remote_header(files: "HfFileSystem", root: str, file: str) -> dict[str, TensorInfo]:
    path = f"{root}/{file}"
    size = files.info(path)["size"]
    # One request usually holds the whole header: E4B's largest is about 100 kB.
    start = read_range(files, path, 0, min(size, 1 << 17), size)
    if len(start) < 8:
        raise InputError(f"{path}: {size} bytes is too short for a safetensors file")
    length = header_length(start[:8], size, path)
    if 8 + length > len(start):
        start += read_range(files, path, len(start), 8 + length, size)
    return parse_header(start[8 : 8 + length], file=file, file_size=size, where=path)


SIDE_PATTERNS: Final = ["*.json", "*.jinja", "*.model", "*.txt", "LICENSE*", "NOTICE*", "README.md"]
"""Glob patterns of a checkpoint's files other than weights."""


def repo_id_of(parent: Parent) -> str:
    """The `org/name` of a parent from the Hub."""
    return _parse_ref(parent.ref).repo_id


def with_weights(parent: Parent) -> Parent:
    """The parent with all its weights in a local folder; downloads them if it has none.

    Raises:
        InputError: The Hub cannot be reached, or refuses.
    """
    if parent.folder is not None:
        return parent
    from huggingface_hub import snapshot_download

    repo_id = repo_id_of(parent)
    shards = sorted({info.file for info in parent.tensors.values()})
    with explained(repo_id, parent.revision):
        folder = snapshot_download(
            repo_id, revision=parent.revision, allow_patterns=[*shards, *SIDE_PATTERNS]
        )
    return _opened_snapshot(parent, Path(folder))


def open_downloaded(parent: Parent) -> Parent | None:
    """The parent from the Hub's cache, or None if the cache does not have all of it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            repo_id_of(parent), revision=parent.revision, local_files_only=True
        )
        return _opened_snapshot(parent, Path(folder))
    except (LocalEntryNotFoundError, InputError):
        return None


def _opened_snapshot(parent: Parent, folder: Path) -> Parent:
    local = open_folder(folder, ref=parent.ref, name=parent.name)
    return replace(local, revision=parent.revision, separate_head=parent.separate_head)


class HubUnreachableError(InputError):
    """The Hub does not answer, or not as it should.

    Attributes:
        short: What happened, without what to do.
    """

    def __init__(self, short: str) -> None:
        super().__init__(f"{short}; check the network, or give a local checkpoint folder")
        self.short = short


def downloaded(ref: str) -> Path:
    """All files of a Hub repository, in the Hub's cache.

    Args:
        ref: `org/name` or `org/name@revision`.

    Raises:
        InputError: The Hub cannot be reached, or refuses.
    """
    from huggingface_hub import snapshot_download

    repo_id, revision = _parse_ref(ref)
    with explained(repo_id, revision):
        return Path(snapshot_download(repo_id, revision=revision))


@contextmanager
def explained(repo_id: str, revision: str | None) -> Iterator[None]:
    """Turn the errors of huggingface_hub into one line that says what to do.

    Args:
        repo_id: `org/name`, for the message.
        revision: As asked for.

    Raises:
        InputError: In place of the client's errors and of any OSError.
    """
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise InputError(
            f"{repo_id} is gated: accept its licence at https://huggingface.co/{repo_id}, "
            "then log in with `hf auth login` (or set HF_TOKEN)"
        ) from None
    except errors.RevisionNotFoundError:
        raise InputError(f"{repo_id}: no revision {revision!r} on the Hub") from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            f"{repo_id}: no such folder here, and no such repository on the Hub "
            f"(a private one needs `hf auth login`){did_you_mean(repo_id)}"
        ) from None
    except errors.EntryNotFoundError as error:
        raise InputError(f"{repo_id}: {one_line(error)}") from None
    except (errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]
        raise HubUnreachableError(
            f"{repo_id}: the Hub cannot be reached ({one_line(error)})"
        ) from None
