"""Task files of one's own: what the folders of a recipe define, read without running any of it.

lm-eval reads a task's file in two ways. Its index leaves `!function` alone; loading a task imports
what these name, in the file and in every file it includes. So what would run, and which files a
task depends on, is found here, by reading the YAML as plain values.
"""

import hashlib
import os
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Final

import yaml

from matformer_lab.common.errors import InputError, one_line
from matformer_lab.common.files.strict_yaml import MAX_VALUES, MAX_YAML_BYTES, check_plain
from matformer_lab.common.files.untrusted import read_small
from matformer_lab.common.paths import resolved
from matformer_lab.common.printable import printable
from matformer_lab.parent.references import is_file, is_folder

_IGNORED: Final = {"__pycache__", ".ipynb_checkpoints"}
"""Folders that lm-eval passes over."""
_MOST_INCLUDES: Final = 100
"""Files behind one task."""
_LONGEST_NAME: Final = 200
"""Bytes; results are in files of the tasks' names."""
_FUNCTION: Final = "!function"
_UNPICKLES: Final = "pandas"
"""The builder of `datasets` that reads pickles, which can run anything."""


@dataclass(frozen=True)
class Function:
    """What `!function` names: Python code that loading the task imports.

    Attributes:
        name: As written: `utils.process_docs`.
        file: The Python file beside the YAML; None: an installed module.
    """

    name: str
    file: Path | None


@dataclass(frozen=True)
class TaskFile:
    """A YAML file of a task folder that defines a task or a group.

    Attributes:
        path: The file.
        folder: The task folder that it is in.
        name: The task's or group's name.
        is_group: Whether it is a group's.
        tags: Names that stand for this task and others.
        members: What a group is made of, by name.
        functions: The code that loading it imports.
        metrics: The metrics that lm-eval looks up, those of `evaluate` (code of its own) marked by
            True.
        reads_pickles: Whether its data are pickles.
        yaml_files: The file, and all that it includes.
    """

    path: Path
    folder: Path
    name: str
    is_group: bool
    tags: tuple[str, ...]
    members: tuple[str, ...]
    functions: tuple[Function, ...]
    metrics: tuple[tuple[str, bool], ...]
    reads_pickles: bool
    yaml_files: tuple[Path, ...]

    @property
    def python_files(self) -> tuple[Path, ...]:
        """The Python files that it names, and all beside and below those, which they may import."""
        named = {function.file.parent for function in self.functions if function.file}
        return tuple(
            sorted(
                {
                    file
                    for folder in named
                    for file in folder.rglob("*.py")
                    if not _IGNORED & set(file.parts)
                }
            )
        )


@dataclass(frozen=True)
class TaskFolders:
    """The tasks and groups that the folders of a recipe define."""

    folders: tuple[Path, ...] = ()
    files: tuple[TaskFile, ...] = ()
    digest: str = ""
    """Of all their YAML files, and what those include: lm-eval's index depends on these."""

    @cached_property
    def by_name(self) -> Mapping[str, TaskFile]:
        return {file.name: file for file in self.files}

    @property
    def names(self) -> frozenset[str]:
        """Of tasks and groups."""
        return frozenset(self.by_name)

    @property
    def tags(self) -> frozenset[str]:
        return frozenset(tag for file in self.files for tag in file.tags)

    def used_by(self, names: Iterable[str]) -> tuple[TaskFile, ...]:
        """The files that define some of `names`, and the members of groups among them."""
        found: dict[str, TaskFile] = {}
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name in self.by_name and name not in found:
                found[name] = self.by_name[name]
                waiting += found[name].members
            waiting += [
                file.name for file in self.files if name in file.tags and file.name not in found
            ]
        return tuple(file for file in self.files if file.name in found)

    def needed_of_lm_eval(self, names: Iterable[str]) -> tuple[str, ...]:
        """Which of `names`, and of what groups among them hold, these folders do not define."""
        asked = {*names, *(member for file in self.used_by(names) for member in file.members)}
        return tuple(sorted(asked - self.names - self.tags))

    def hashes(self, names: Iterable[str]) -> Mapping[str, str]:
        """sha256 (hex) of every file that the tasks `names` depend on.

        Keys are paths relative to the task folder, so that they do not say where that is; from the
        second folder on they begin with its number.
        """
        found: dict[str, str] = {}
        for task in self.used_by(names):
            number = self.folders.index(task.folder) + 1
            for file in (*task.yaml_files, *task.python_files):
                relative = Path(os.path.relpath(file, task.folder)).as_posix()
                key = relative if number == 1 else f"[{number}]/{relative}"
                found[key] = _sha256(file)
        return dict(sorted(found.items()))


def read_task_folders(folders: Sequence[Path]) -> TaskFolders:
    """Read what the task folders define; nothing in them is run.

    Args:
        folders: Their paths.

    Raises:
        InputError: When a folder is not there, a file is no YAML, or two files define one name.
    """
    files: list[TaskFile] = []
    once = tuple(dict.fromkeys(map(resolved, folders)))
    for folder in once:
        if is_file(folder):
            raise InputError(f"task_folders: {folder}: is a file; give the folder that it is in")
        if not is_folder(folder):
            raise InputError(f"task_folders: {folder}: no such folder")
        for path in sorted(folder.glob("**/*.yaml"), key=lambda path: path.as_posix()):
            if not _IGNORED & set(path.parts):
                files += _read(path, folder)
    _check_names_once(files)
    read = sorted({path for file in files for path in file.yaml_files})
    digest = hashlib.sha256("".join(f"{path} {_sha256(path)}\n" for path in read).encode())
    return TaskFolders(once, tuple(files), digest.hexdigest())


def check_names_are_new(folders: TaskFolders, taken: frozenset[str]) -> None:
    """Check that no file takes a name of lm-eval's: lm-eval would use it in the other's place.

    Args:
        folders: The recipe's.
        taken: The names of lm-eval's tasks, groups and tags, and of the package's own tasks.

    Raises:
        InputError: When one does.
    """
    for file in folders.files:
        for name in (file.name, *file.tags):
            if name in taken:
                raise InputError(
                    f"task_folders: {file.path}: {name!r} is a name of lm-eval's own; choose "
                    "another"
                )


def _sha256(path: Path) -> str:
    return hashlib.sha256(read_small(path)).hexdigest()


def _check_names_once(files: Sequence[TaskFile]) -> None:
    seen: dict[str, TaskFile] = {}
    tag_of: dict[str, TaskFile] = {}
    for file in files:
        if (other := seen.setdefault(file.name, file)) is not file:
            raise InputError(
                f"task_folders: {other.path} and {file.path} both define {file.name!r}; rename one"
            )
    for file in files:
        for tag in file.tags:
            other = seen.get(tag) or tag_of.setdefault(tag, file)
            if tag in seen or other.folder != file.folder:
                raise InputError(
                    f"task_folders: the tag {tag!r} of {file.path} is used in {other.path} too; "
                    "rename one"
                )


def _read(path: Path, folder: Path) -> Iterator[TaskFile]:
    """The task or group that a file defines; one that defines neither is there to be included."""
    written: dict[Path, Mapping[str, Any]] = {}
    config = _with_includes(path, written)
    is_group = "group" in config and "class" not in config
    name = config.get("group" if is_group else "task")
    if name is None:
        return
    _check_name(name, path)
    members = _listed(config.get("task")) if is_group else []
    yield TaskFile(
        path=path,
        folder=folder,
        name=name,
        is_group=is_group,
        tags=tuple(tag for tag in _listed(config.get("tag")) if isinstance(tag, str)),
        members=tuple(_member_names(members, path)),
        functions=tuple(
            dict.fromkeys(each for file, said in written.items() for each in _functions(said, file))
        ),
        metrics=()
        if "process_results" in config
        else tuple(dict.fromkeys(each for said in written.values() for each in _metrics(said))),
        reads_pickles=any(_says(said, "dataset_path", _UNPICKLES) for said in written.values()),
        yaml_files=tuple(written),
    )


class _Loader(yaml.CSafeLoader):
    """YAML as lm-eval's index reads it: plain values, and `!function` as the text it names."""


class _Named(str):
    """The text of a `!function`."""


_Loader.add_constructor(_FUNCTION, lambda loader, node: _Named(loader.construct_scalar(node)))  # type: ignore[arg-type]


def _with_includes(path: Path, written: dict[Path, Mapping[str, Any]]) -> Mapping[str, Any]:
    """A file's keys over those of the files that it includes, as lm-eval merges them.

    Args:
        path: The file.
        written: Gets every file's own keys.
    """
    try:
        path = resolved(path)
    except InputError as error:
        raise InputError(f"task_folders: {error}") from None
    if path in written:
        raise InputError(f"task_folders: {path}: is included twice, or includes itself")
    if len(written) == _MOST_INCLUDES:
        raise InputError(f"task_folders: {path}: more than {_MOST_INCLUDES} files are included")
    try:
        config = _parsed(read_small(path, MAX_YAML_BYTES))
    except InputError as error:
        raise InputError(f"task_folders: {error}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"task_folders: {path}: is not a task file ({one_line(error)})") from None
    if not isinstance(config, dict):
        config = {}
    written[path] = config
    merged: dict[str, Any] = {}
    for include in _listed(config.get("include")):
        if not isinstance(include, str) or not include.isprintable():
            raise InputError(
                f"task_folders: {path}: include: {reprlib.repr(include)} is not a file name"
            )
        merged |= {
            key: value
            for key, value in _with_includes(path.parent / include, written).items()
            if key != "task_list"
        }
    return {**merged, **{key: value for key, value in config.items() if key != "include"}}


def _parsed(data: bytes) -> Any:
    """What a file holds, read as lm-eval does, once nothing in it can harm that.

    Raises:
        yaml.YAMLError: It is no YAML.
        ValueError: It has what no task has: other tags, endless nesting, numbers or aliases.
    """
    check_plain(data, tags=(_FUNCTION,))
    config = yaml.load(data, Loader=_Loader)
    if sum(1 for _ in islice(_values(config), MAX_VALUES + 1)) > MAX_VALUES:
        raise ValueError(f"holds more than {MAX_VALUES:,} values")
    return config


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _member_names(members: Iterable[Any], path: Path) -> Iterator[str]:
    for member in members:
        if isinstance(member, dict):
            for key in ("task", "group"):
                yield from _member_names(_listed(member.get(key)), path)
        else:
            _check_name(member, path)
            yield member


def _check_name(name: Any, path: Path) -> None:
    """Check that a name is a text, as lm-eval does not, and one that files can have."""
    if not isinstance(name, str):
        raise InputError(f"task_folders: {path}: {name!r} is not a name; write it in quotes")
    if not name or printable(name) != name or len(name.encode()) > _LONGEST_NAME:
        raise InputError(
            f"task_folders: {path}: {reprlib.repr(name)} is not a valid name: it has to be "
            f"printable, and {_LONGEST_NAME} bytes long at most"
        )


def _values(value: Any) -> Iterator[Any]:
    """A value, and all that is in it."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        yield each
        if isinstance(each, dict):
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each


def _functions(config: Mapping[str, Any], path: Path) -> Iterator[Function]:
    for value in _values(config):
        if isinstance(value, _Named):
            if not value.isprintable() or len(value.encode()) > _LONGEST_NAME:
                raise InputError(
                    f"task_folders: {path}: {_FUNCTION} {reprlib.repr(str(value))} names no "
                    "function"
                )
            module = str(value).rpartition(".")[0].replace(".", "/")
            file = resolved(path.parent / f"{module}.py")
            yield Function(str(value), file if is_file(file) else None)


def _metrics(config: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    for value in _values(config):
        if isinstance(value, dict):
            for metric in _listed(value.get("metric_list")):
                named = metric.get("metric") if isinstance(metric, dict) else None
                if isinstance(named, str) and not isinstance(named, _Named):
                    yield named, metric.get("hf_evaluate") is True


def _says(config: Mapping[str, Any], key: str, wanted: str) -> bool:
    return any(isinstance(value, dict) and value.get(key) == wanted for value in _values(config))
