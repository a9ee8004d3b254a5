"""Power cuts: what may be on a disk when everything that was not fsynced is lost.

POSIX promises no more than this: a file's bytes are on the disk once the file was fsynced, and a
name (a new file, a rename, a removal) once its folder was. Before that, either may be there or not.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

from blake3 import blake3

from tests.support.file_operations import Operation


@dataclass(eq=False)
class Node:
    """A file or a folder, whatever its name.

    Attributes:
        folder: Whether it is a folder.
        durable: The bytes of a file that are on the disk.
        entries: The names in a folder, as a running process sees them.
    """

    folder: bool
    durable: bytes = b""
    entries: dict[str, "Node"] = field(default_factory=dict)


@dataclass(eq=False)
class Change:
    """One change of names, made as a whole or not at all.

    Attributes:
        sets: The folder, the name, and what it names from then on (None: nothing).
        durable: Whether one of the folders was fsynced since.
    """

    sets: tuple[tuple[Node, str, Node | None], ...]
    durable: bool = False


class Disk:
    """A folder's files: what a running process sees, and what is durable of it."""

    def __init__(self, root: Path) -> None:
        """The folder as it is now, all of which is durable."""
        self._root = root.resolve()
        self._top = _read(self._root)
        self._start = _copy_names(self._top)
        self._changes: list[Change] = []

    def apply(self, operation: Operation) -> None:
        """What an operation does."""
        name, path, target = operation.name, operation.path, operation.target
        if name in ("open", "mkdir"):
            self._change((path, Node(folder=name == "mkdir")))
        elif name in ("unlink", "remove", "rmdir"):
            self._change((path, None))
        elif name in ("rename", "replace"):
            assert target is not None
            self._change((path, None), (target, self._at(path)))
        elif name == "link":
            assert target is not None
            self._change((target, self._at(path)))
        elif name == "fsync":
            node = self._at(path)
            if node.folder:
                for change in self._changes:
                    change.durable |= any(folder is node for folder, _, _ in change.sets)
            else:
                assert operation.content is not None
                node.durable = operation.content

    def _change(self, *sets: tuple[Path, Node | None]) -> None:
        found = tuple((self._at(path.parent), path.name, node) for path, node in sets)
        for folder, name, node in found:
            if node is None:
                del folder.entries[name]
            else:
                folder.entries[name] = node
        self._changes.append(Change(found))

    def _at(self, path: Path) -> Node:
        node = self._top
        for part in path.relative_to(self._root).parts:
            node = node.entries[part]
        return node

    def after(self, survives: Callable[[Change], bool]) -> dict[str, bytes | None]:
        """The files (None: folders) by place after a power cut that these changes survived."""
        names = {id(node): dict(entries) for node, entries in self._start.items()}
        for change in self._changes:
            if change.durable or survives(change):
                for folder, name, node in change.sets:
                    entries = names.setdefault(id(folder), {})
                    entries.pop(name, None)
                    if node is not None:
                        entries[name] = node
        found: dict[str, bytes | None] = {}

        def walk(folder: Node, at: str) -> None:
            for name, node in sorted(names.get(id(folder), {}).items()):
                found[at + name] = None if node.folder else node.durable
                if node.folder:
                    walk(node, f"{at}{name}/")

        walk(self._top, "")
        return found


SURVIVING: Final = {"names lost": 0.0, "names kept": 1.0, "some names": 0.5}
"""The share of the names without an fsync that survive."""


def power_cuts(
    start: Disk, operations: Sequence[Operation], seed: int = 0
) -> Iterator[tuple[str, dict[str, bytes | None]]]:
    """What may be on the disk after a power cut behind each of the operations, each state once.

    Args:
        start: The disk before them; afterwards it is as it is after them.
        operations: From `record`.
        seed: Draws the names that survive.

    Yields:
        What happened, and the files (None: folders) by place.
    """
    random = Random(seed)
    seen = set()
    for number, operation in enumerate(operations):
        start.apply(operation)
        for way in SURVIVING:
            files = start.after(_surviving(SURVIVING[way], random))
            digest = blake3(repr(sorted(files.items(), key=lambda item: item[0])).encode()).digest()
            if digest not in seen:
                seen.add(digest)
                yield f"after {number} ({operation.name} {operation.path.name}), {way}", files


def _surviving(share: float, random: Random) -> Callable[[Change], bool]:
    return lambda change: random.random() < share


def lay_out(files: Mapping[str, bytes | None], root: Path) -> None:
    """Write files (None: folders) into an empty folder."""
    for place, content in files.items():
        if content is None:
            (root / place).mkdir(parents=True, exist_ok=True)
        else:
            (root / place).parent.mkdir(parents=True, exist_ok=True)
            (root / place).write_bytes(content)


def _read(path: Path) -> Node:
    if not path.is_dir():
        return Node(folder=False, durable=path.read_bytes())
    return Node(folder=True, entries={name: _read(path / name) for name in os.listdir(path)})  # noqa: PTH208


def _copy_names(node: Node) -> dict[Node, dict[str, Node]]:
    found = {node: dict(node.entries)}
    for inner in node.entries.values():
        found |= _copy_names(inner)
    return found
