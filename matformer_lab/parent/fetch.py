"""The parts of a Hub parent that a slice needs, fetched by range into sparse files.

The folder of these files is in the Hub's home (`HF_HOME`). Code that reads only the fetched parts
can use it like the parent's own folder. What is fetched is kept: an interrupted download resumes
where it stopped, and another slice of the same parent fetches only the parts that are still
missing.
"""

import json
import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from matformer_lab.common.errors import InputError
from matformer_lab.common.files.atomic import write_atomic
from matformer_lab.common.files.locks import locked
from matformer_lab.common.progress import Advance, bytes_bar
from matformer_lab.common.spans import Span, merged, missing
from matformer_lab.common.units import in_units
from matformer_lab.parent.folder import TEMPLATES_FOLDER, open_folder
from matformer_lab.parent.hub import (
    SIDE_PATTERNS,
    explained,
    open_downloaded,
    read_range,
    repo_id_of,
    with_weights,
)
from matformer_lab.parent.parent import Parent
from matformer_lab.parent.weights.headers import TensorInfo

REQUEST_BYTES: Final = 16 << 20
"""Bytes of one request, and the most that a broken connection loses."""

GAP_BYTES: Final = 1 << 20
"""Gaps of up to so many bytes are fetched too: a further request takes longer than they do."""

_CONNECTIONS: Final = 4
_JOURNAL: Final = "fetched.json"


class TensorPart(Protocol):
    """A part of one of the parent's tensors, such as the source of a plan's tensor."""

    @property
    def info(self) -> TensorInfo:
        """Where the whole tensor lies in the parent."""

    @property
    def axis(self) -> int | None:
        """0 for rows, 1 for columns, None for the whole tensor."""

    @property
    def ranges(self) -> tuple[Span, ...]:
        """The part's indices along `axis`."""


@dataclass(frozen=True)
class Needs:
    """What to fetch of each weight file.

    Attributes:
        spans: By file name, the bytes to fetch, in ascending order.
        sizes: By file name, the size of the whole file in bytes.
    """

    spans: dict[str, tuple[Span, ...]]
    sizes: dict[str, int]

    @property
    def nbytes(self) -> int:
        """Bytes to fetch."""
        return sum(stop - start for spans in self.spans.values() for start, stop in spans)

    @property
    def whole(self) -> bool:
        """Whether that is every byte of every file."""
        return self.nbytes == sum(self.sizes.values())


def needs_of(parent: Parent, parts: Iterable[TensorPart]) -> Needs:
    """The bytes that hold `parts`, and the headers.

    For a part of the columns the whole tensor is fetched: its rows are much shorter than
    `GAP_BYTES`.
    """
    sizes: dict[str, int] = {}
    wanted: dict[str, list[Span]] = {}
    for info in parent.tensors.values():
        sizes[info.file] = max(sizes.get(info.file, 0), info.offset + info.nbytes)
        first = wanted.setdefault(info.file, [(0, info.offset)])
        first[0] = (0, min(first[0][1], info.offset))  # the header ends where the data begins
    for part in parts:
        info = part.info
        if part.axis == 0:
            row_bytes = info.nbytes // info.shape[0]
            spans = [
                (info.offset + start * row_bytes, info.offset + stop * row_bytes)
                for start, stop in part.ranges
            ]
        else:
            spans = [(info.offset, info.offset + info.nbytes)]
        wanted[info.file] += spans
    return Needs({file: merged(spans, GAP_BYTES) for file, spans in wanted.items()}, sizes)


def requests_for(spans: Iterable[Span]) -> Iterator[Span]:
    """The spans, split into pieces of at most `REQUEST_BYTES`."""
    for start, stop in spans:
        for at in range(start, stop, REQUEST_BYTES):
            yield at, min(at + REQUEST_BYTES, stop)


def fetched(parent: Parent, parts: Iterable[TensorPart], *, progress: bool = True) -> Parent:
    """The parent with a local folder that holds at least these parts of its tensors.

    Args:
        parent: Returned unchanged if it is local.
        parts: What will be read, for instance a plan's tensors.
        progress: Show a bar where it can be seen.

    Returns:
        The parent with a folder: of whole files if the Hub's cache has them or all of them are
        needed, else of sparse files, in which the other tensors are zeros.

    Raises:
        InputError: The Hub or the disk refuses, or another process is fetching the same parent.
    """
    if parent.folder is not None:
        return parent
    downloaded = open_downloaded(parent)
    if downloaded is not None:
        return downloaded
    needs = needs_of(parent, parts)
    if needs.whole:
        return with_weights(parent)
    from huggingface_hub import snapshot_download

    repo_id = repo_id_of(parent)
    with explained(repo_id, parent.revision):
        small = snapshot_download(repo_id, revision=parent.revision, allow_patterns=SIDE_PATTERNS)
        folder = _folder_of(parent)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with locked(
                folder, f"{folder}: another process is fetching into this folder; wait for it"
            ):
                with bytes_bar(f"fetch {parent.name}", needs.nbytes, progress) as advance:
                    _fetch_all(f"{repo_id}@{parent.revision}", folder, needs, advance)
                templates = Path(small, TEMPLATES_FOLDER)
                for path in (*Path(small).iterdir(), *templates.glob("*.jinja")):
                    if path.is_file() and path.suffix != ".safetensors":
                        target = folder / path.relative_to(small)
                        target.parent.mkdir(exist_ok=True)
                        write_atomic(target, path.read_bytes())
        except OSError as error:
            if error.errno is None or isinstance(error, ConnectionError | TimeoutError):
                raise  # the network's, which `explained` words
            raise InputError(
                f"{folder}: cannot be written ({error.strerror}); run again to continue (what is "
                "fetched is kept)"
            ) from None
    local = open_folder(folder, ref=parent.ref, name=parent.name)
    if local.tensors != parent.tensors:
        raise InputError(f"{folder}: no longer matches {parent.ref}; remove it and run again")
    return replace(local, revision=parent.revision, separate_head=parent.separate_head)


def _folder_of(parent: Parent) -> Path:
    from huggingface_hub import constants

    assert parent.revision is not None
    repo = repo_id_of(parent).replace("/", "--")
    return Path(constants.HF_HOME) / "matformer_lab" / repo / parent.revision


def _fetch_all(root: str, folder: Path, needs: Needs, advance: Advance) -> None:
    from huggingface_hub import HfFileSystem

    journal = _Journal(folder, needs.sizes)
    todo = [
        (file, span)
        for file, spans in needs.spans.items()
        for span in requests_for(missing(spans, journal.spans(file)))
    ]
    left = sum(stop - start for _, (start, stop) in todo)
    free = shutil.disk_usage(folder).free
    if free < left:
        raise InputError(
            f"{folder}: needs {in_units(left)} more, but the disk has only {in_units(free)} free"
        )
    advance(needs.nbytes - left)
    files = HfFileSystem()
    stop = threading.Event()

    def fetch(file: str, span: Span) -> None:
        if stop.is_set():
            return
        journal.add(file, span, read_range(files, f"{root}/{file}", *span, needs.sizes[file]))
        advance(span[1] - span[0])

    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        try:
            for request in [pool.submit(fetch, file, span) for file, span in todo]:
                request.result()
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


class _Journal:
    """Which bytes each file of the folder has; a span is recorded once it is on the disk."""

    def __init__(self, folder: Path, sizes: dict[str, int]) -> None:
        self._folder, self._lock = folder, threading.Lock()
        self._spans: dict[str, tuple[Span, ...]] = {}
        recorded = self._read()
        for file, size in sizes.items():
            path = folder / file
            if path.is_file() and path.stat().st_size == size:
                self._spans[file] = merged((a, b) for a, b in recorded.get(file, ()))
            else:
                with path.open("wb") as new:
                    new.truncate(size)

    def _read(self) -> dict[str, list[Span]]:
        try:
            recorded: dict[str, list[Span]] = json.loads((self._folder / _JOURNAL).read_bytes())
        except (OSError, ValueError):
            return {}
        return recorded

    def spans(self, file: str) -> tuple[Span, ...]:
        return self._spans.get(file, ())

    def add(self, file: str, span: Span, data: bytes) -> None:
        with (self._folder / file).open("r+b", buffering=0) as target:
            target.seek(span[0])
            view = memoryview(data)
            while view:
                view = view[target.write(view) :]
            os.fsync(target.fileno())
        with self._lock:
            self._spans[file] = merged([*self.spans(file), span])
            write_atomic(self._folder / _JOURNAL, json.dumps(self._spans).encode())
