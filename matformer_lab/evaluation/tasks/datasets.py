"""Opens datasets from local folders instead of the Hub."""

import contextlib
import copy
import hashlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matformer_lab.common.errors import InputError, one_line
from matformer_lab.evaluation.tasks.dataset_ids import FORMER_IDS, look_alikes
from matformer_lab.evaluation.tasks.hub_reach import offline_if_unreachable


@dataclass(frozen=True)
class _LocalDatasets:
    """Folders laid out by dataset id: the user's, and the package's own."""

    user: Path | None
    own: Path | None
    caches: dict[Path, Path] = field(default_factory=dict)
    opened: dict[str, Any] = field(default_factory=dict)
    """What was opened: the tasks of a group ask for one dataset up to 57 times (a subject each)."""

    def folder(self, dataset_id: str) -> Path | None:
        """The local folder for a dataset id; None where it comes from the Hub."""
        if self.own is not None and (self.own / dataset_id).is_dir():
            return self.own / dataset_id
        if self.user is None:
            return None
        for name in (dataset_id, *FORMER_IDS.get(dataset_id, ())):
            if (self.user / name).is_dir():
                return self.user / name
        if Path(dataset_id).is_dir():  # a path, which `datasets` takes too
            return Path(dataset_id)
        near = next(look_alikes(dataset_id, self.user), None)
        hint = f" ({near} looks like it; move it there, or link to it)" if near else ""
        raise InputError(
            f"dataset {dataset_id!r} is not under {self.user}: put a copy of the dataset "
            f"repository at {self.user / dataset_id}{hint}, or leave out `datasets` to use the Hub"
        )

    def cache(self, folder: Path) -> Path:
        """Where `datasets` may keep its Arrow copy of a local folder, keyed by the folder's bytes.

        By itself `datasets` keys a folder with a README by the file patterns in it: for another
        folder of the same layout, or new files in this one, it would silently use the old copy.
        """
        if folder not in self.caches:
            self.caches[folder] = _cache_root() / "local" / _content_hash(folder)[:32]
        return self.caches[folder]


_local_datasets: ContextVar[_LocalDatasets | None] = ContextVar("local datasets", default=None)


@contextlib.contextmanager
def mapped_datasets(user: Path | None, own: Path | None = None) -> Iterator[None]:
    """Within it, `datasets.load_dataset("Rowan/hellaswag")` opens `user/Rowan/hellaswag`.

    Every lm-eval task loads its data through that one function; replacing a task's `dataset_path`
    instead would miss the tasks of a group.

    Args:
        user: A folder laid out by dataset id, which must have all datasets that are not in `own`.
            None leaves these to the Hub.
        own: Another such folder, searched first.

    Raises:
        InputError: From `load_dataset`, when a dataset is not there or cannot be read.
    """
    import datasets

    original = datasets.load_dataset
    token = _local_datasets.set(_LocalDatasets(user, own))
    datasets.load_dataset = _mapped(original)
    try:
        yield
    finally:
        datasets.load_dataset = original
        _local_datasets.reset(token)


def _mapped(original: Callable[..., Any]) -> Callable[..., Any]:
    def load_dataset(path: str, *args: Any, **kwargs: Any) -> Any:
        local = _local_datasets.get()
        if local is None:  # a task module imported within keeps this function for good
            return original(path, *args, **kwargs)
        if is_builder(path):
            return _from_files(original, path, *args, **kwargs)
        asked = repr((path, args, sorted(kwargs.items())))
        if asked not in local.opened:
            folder = local.folder(path)
            if folder is None:
                local.opened[asked] = _from_hub(original, path, *args, **kwargs)
            else:
                local.opened[asked] = _from_folder(original, local, folder, path, *args, **kwargs)
        # A copy of the dict of splits: a task may put others in their places. They are immutable.
        return copy.copy(local.opened[asked])

    return load_dataset


def _from_folder(
    original: Callable[..., Any],
    local: _LocalDatasets,
    folder: Path,
    path: str,
    *args: Any,
    **kwargs: Any,
) -> Any:
    if kwargs.get("cache_dir") is None:
        kwargs["cache_dir"] = str(local.cache(folder))
    try:
        return original(str(folder), *args, **kwargs)
    except Exception as error:
        raise InputError(
            f"dataset {path!r} cannot be read from {folder}: {_reason(error)}"
        ) from error


def is_builder(dataset_path: str) -> bool:
    """Whether a task's `dataset_path` is no dataset but a reader of files: json, csv, text, ..."""
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

    return dataset_path in _PACKAGED_DATASETS_MODULES


def _from_files(original: Callable[..., Any], path: str, *args: Any, **kwargs: Any) -> Any:
    """Files that the task names itself, from the working directory on, as with lm-eval."""
    try:
        return original(path, *args, **kwargs)
    except Exception as error:
        raise InputError(
            f"the files of a task (dataset_path: {path}) cannot be read: {_reason(error)}"
        ) from error


def _from_hub(original: Callable[..., Any], path: str, *args: Any, **kwargs: Any) -> Any:
    with offline_if_unreachable() as why_not:
        try:
            return original(path, *args, **kwargs)
        except Exception as error:
            reason = f"{why_not}, and the cache does not have it" if why_not else _reason(error)
            raise InputError(
                f"dataset {path!r} cannot be loaded from the Hub: {reason}; with no network, give "
                "a folder of datasets (`datasets`)"
            ) from error


def _reason(error: BaseException) -> str:
    """The error in one line, with what caused it: `datasets` says no more than that it failed."""
    cause = f": {one_line(error.__cause__)[:300]}" if error.__cause__ else ""
    return one_line(error) + cause


def _content_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{file.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def _cache_root() -> Path:
    from datasets import config

    return Path(config.HF_DATASETS_CACHE)
