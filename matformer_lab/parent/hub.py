"""Hub repositories as parents, through huggingface_hub: headers for a plan, files for a slice."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from matformer_lab.common.errors import InputError, one_line
from matformer_lab.common.strict_json import strict_json
from matformer_lab.parent.folder import open_folder
from matformer_lab.parent.headers import TensorInfo, header_length, parse_header
from matformer_lab.parent.index import INDEX_FILE, add_shard, check_index_complete, parse_index
from matformer_lab.parent.parent import SINGLE_FILE, Parent, build_parent

if TYPE_CHECKING:
    from huggingface_hub import HfFileSystem

_TRIES: Final = 5
_REPO_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", re.ASCII)


def looks_like_repo_id(ref: str) -> bool:
    """`org/name` or `org/name@revision`."""
    return bool(_REPO_ID.fullmatch(ref)) and ".." not in ref


def _split(ref: str) -> tuple[str, str | None]:
    repo_id, _, revision = ref.partition("@")
    return repo_id, revision or None


def open_remote(ref: str) -> Parent:
    """A Hub parent from its config.json and range-read safetensors headers; no weights."""
    from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    repo_id, revision = _split(ref)
    if constants.HF_HUB_OFFLINE:
        try:
            folder = Path(snapshot_download(repo_id, revision=revision, local_files_only=True))
        except LocalEntryNotFoundError:
            raise InputError(
                f"{ref}: not in the Hub's cache, and HF_HUB_OFFLINE forbids to fetch it; unset it "
                "or give a local checkpoint folder"
            ) from None
        return replace(open_folder(folder, ref=ref, name=repo_id), revision=folder.name)
    with explained(repo_id, revision):
        commit = HfApi().model_info(repo_id, revision=revision).sha
        config_path = hf_hub_download(repo_id, "config.json", revision=commit)
        tensors = _remote_layout(repo_id, commit)
    config = strict_json(Path(config_path).read_bytes(), f"{ref}: config.json")
    return build_parent(
        ref=ref, name=repo_id, config=config, tensors=tensors, folder=None, revision=commit
    )


def _remote_layout(repo_id: str, revision: str | None) -> dict[str, TensorInfo]:
    from huggingface_hub import HfFileSystem

    files = HfFileSystem()
    root = f"{repo_id}@{revision}"
    if files.exists(f"{root}/{SINGLE_FILE}"):  # type: ignore[no-untyped-call]
        return _remote_header(files, root, SINGLE_FILE)
    if not files.exists(f"{root}/{INDEX_FILE}"):  # type: ignore[no-untyped-call]
        raise InputError(f"{repo_id}: no {SINGLE_FILE} and no {INDEX_FILE} in the repository")
    where = f"{repo_id}/{INDEX_FILE}"
    weight_map = parse_index(files.cat_file(f"{root}/{INDEX_FILE}"), where)
    tensors: dict[str, TensorInfo] = {}
    for file in sorted(set(weight_map.values())):
        add_shard(tensors, _remote_header(files, root, file), weight_map, file, where)
    check_index_complete(tensors, weight_map, where)
    return tensors


def read_range(files: Any, path: str, start: int, stop: int, size: int) -> bytes:
    """Bytes `start` to before `stop` of a file of `size` bytes, with one request for just those.

    huggingface_hub repeats broken requests; this repeats those answered with too short a body.
    """
    for attempt in range(_TRIES):
        # Without cache_type="none", 5 MB are fetched ahead whatever is asked for.
        with files.open(path, "rb", cache_type="none", size=size) as file:
            file.seek(start)
            data: bytes = file.read(stop - start)
        if len(data) == stop - start:
            return data
        time.sleep(0.1 * 2**attempt)
    raise InputError(
        f"{path}: the server sent {len(data):,} bytes when asked for {stop - start:,}, {_TRIES} "
        "times; what is fetched is kept, run again to continue"
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
"""What a checkpoint holds besides weights."""


def repo_id_of(parent: Parent) -> str:
    """`org/name` of a remote parent."""
    return _split(parent.ref)[0]


def with_weights(parent: Parent) -> Parent:
    """The parent with its weights in a local folder, downloaded into the Hub cache if need be."""
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
    """The parent from the Hub cache if all of it is there."""
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
    return replace(local, revision=parent.revision)


@contextmanager
def explained(repo_id: str, revision: str | None) -> Iterator[None]:
    """Turn the Hub client's errors into one line that says what to do."""
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
            f"{repo_id}: no such folder here and no such repository on the Hub "
            "(a private one needs `hf auth login`)"
        ) from None
    except errors.EntryNotFoundError as error:
        raise InputError(f"{repo_id}: {one_line(error)}") from None
    except (errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]
        raise InputError(
            f"{repo_id}: the Hub cannot be reached ({one_line(error)}); check the network or "
            "give a local checkpoint folder"
        ) from None
