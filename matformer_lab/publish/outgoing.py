"""The files that are sent: those that a checkpoint's manifest accounts for, and its card."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from matformer_lab.checkpoint.card import CARD_FILE
from matformer_lab.checkpoint.manifest import MANIFEST_FILE, Manifest
from matformer_lab.common.errors import InputError
from matformer_lab.common.files.untrusted import open_regular
from matformer_lab.common.progress import Advance
from matformer_lab.parent.folder import read_layout
from matformer_lab.parent.weights.links import path_inside

_CHUNK_BYTES: Final = 1 << 22

_Signature = tuple[int, int, int, int]


@dataclass(frozen=True)
class OutgoingFile:
    """A file as it goes to the Hub.

    Attributes:
        path: Its name in the repository.
        content: Where it lies, or what it holds.
        size: In bytes.
        sha256: Of its content, hexadecimal: how the Hub knows a large file.
        git_sha1: Of its content as a git blob, hexadecimal: how the Hub knows a small one.
        signature: What changes when the file on the disk does; None for one in memory.
    """

    path: str
    content: Path | bytes
    size: int
    sha256: str
    git_sha1: str
    signature: _Signature | None = None

    def is_unchanged(self) -> bool:
        """Whether the file on the disk is still the one that was looked at."""
        if not isinstance(self.content, Path):
            return True
        try:
            return _signature(self.content) == self.signature
        except OSError:
            return False


def checkpoint_files(folder: Path, manifest: Manifest) -> dict[str, Path]:
    """A checkpoint's files by name, without the card; whatever else is in the folder stays here.

    Raises:
        InputError: The weights cannot be read, or a file is a link that leads out of the folder.
    """
    weights = {info.file for info in read_layout(folder).values()}
    names = weights | manifest.files.keys() | {MANIFEST_FILE}
    return {
        name: path_inside(folder, name, str(folder)) for name in sorted(names) if name != CARD_FILE
    }


def from_memory(path: str, content: bytes) -> OutgoingFile:
    """A file that was made for the Hub and lies nowhere."""
    sha256, git_sha1 = hashlib.sha256(content), _git_blob(len(content))
    git_sha1.update(content)
    return OutgoingFile(path, content, len(content), sha256.hexdigest(), git_sha1.hexdigest())


class DiskFiles:
    """Files on the disk, each read once for its digests however many names it has."""

    def __init__(self) -> None:
        self._known: dict[_Signature, tuple[str, str]] = {}

    def size_to_read(self, paths: Iterable[Path]) -> int:
        """Bytes that `outgoing` will read of these files."""
        sizes = {_signature(path): path.stat().st_size for path in paths}
        return sum(size for signature, size in sizes.items() if signature not in self._known)

    def outgoing(self, files: Mapping[str, Path], advance: Advance) -> list[OutgoingFile]:
        """The files as they go to the Hub.

        Args:
            files: Paths by the names that they will have.
            advance: Called with the number of bytes read since its last call.

        Raises:
            InputError: One cannot be read.
        """
        return [self._outgoing(name, path, advance) for name, path in files.items()]

    def _outgoing(self, name: str, path: Path, advance: Advance) -> OutgoingFile:
        try:
            signature = _signature(path)
            if signature not in self._known:
                self._known[signature] = _digests(path, path.stat().st_size, advance)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
        sha256, git_sha1 = self._known[signature]
        return OutgoingFile(name, path, path.stat().st_size, sha256, git_sha1, signature)


def _digests(path: Path, size: int, advance: Advance) -> tuple[str, str]:
    sha256, git_sha1 = hashlib.sha256(), _git_blob(size)
    with open_regular(path) as file:
        while piece := file.read(_CHUNK_BYTES):
            sha256.update(piece)
            git_sha1.update(piece)
            advance(len(piece))
    return sha256.hexdigest(), git_sha1.hexdigest()


def _git_blob(size: int) -> "hashlib._Hash":
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def _signature(path: Path) -> _Signature:
    stat = os.stat(path)  # noqa: PTH116 (follows links)
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
