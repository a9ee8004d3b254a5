"""What a worker of a Ray cluster does: score a pass and stream its scores back.

A worker process takes one pass after the other, and keeps what the passes of a sweep have in
common: the opened recipe and the loaded weights.
"""

import json
import logging
import platform
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from queue import SimpleQueue
from typing import TYPE_CHECKING

from matformer_lab.common.errors import InputError, one_line
from matformer_lab.parent.hub import with_weights
from matformer_lab.sweep.executors.base import Scored
from matformer_lab.sweep.executors.score_pass import load_elastic, score_pass
from matformer_lab.sweep.jobs import Prepared, prepare
from matformer_lab.sweep.recipe import parse_recipe
from matformer_lab.sweep.scores.key import Key
from matformer_lab.sweep.scores.pass_journals import sent_journal
from matformer_lab.sweep.scores.provenance import library_versions

if TYPE_CHECKING:
    from matformer_lab.live.elastic import ElasticParent


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """What a worker is told: one pass of one sweep.

    Attributes:
        sweep: A name of the run; nothing that was opened for another run is used for it.
        recipe: In JSON, with only the pass's task, and valid on any node (`provenance.portable`).
        keys: The driver's keys of the scores.
        versions: The driver's library versions.
        threads: CPU threads to use.
        records: Of the pass's journal there, of workers that died; None: keep no journal.
    """

    sweep: str
    recipe: str
    keys: tuple[Key, ...]
    versions: Mapping[str, str]
    threads: int
    records: tuple[bytes, ...] | None = None


def score_on_worker(work: Work) -> Iterator[Scored | bytes]:
    """Score one pass: what runs as a Ray task.

    Yields:
        Each score as it finishes; before them records for the journal of the pass, if it has one.

    Raises:
        InputError: For everything that goes wrong, with the node's name. The traceback of an error
            that no input has caused is in Ray's log of the worker.
    """
    try:
        yield from _scored(work)
    except InputError as error:
        raise InputError(f"worker on {platform.node()}: {error}") from None
    except Exception as error:
        _log.exception("scoring failed")
        raise InputError(
            f"worker on {platform.node()}, scoring {work.keys[0].task}: {type(error).__name__}: "
            f"{one_line(error)} (traceback in Ray's log of that worker)"
        ) from error


def _scored(work: Work) -> Iterator[Scored | bytes]:
    _check_versions(work.versions)
    prepared = _opened(work.sweep, work.recipe)
    jobs = {(job.key.slice, job.key.task): job for job in prepared.jobs}
    group = [jobs[key.slice, key.task] for key in work.keys]
    for key, job in zip(work.keys, group, strict=True):
        if different := key.differences(job.key.fields):
            raise InputError(
                f"would compute another score than this machine asks for: {'; '.join(different)} "
                "(there -> here); give all nodes the same parent and datasets"
            )
    elastic = _elastic(work.sweep, prepared)
    found: SimpleQueue[Scored | bytes | Exception | None] = SimpleQueue()

    def score() -> None:
        try:
            if prepared.device == "cpu":
                import torch

                torch.set_num_threads(work.threads)
            kept = None if work.records is None else sent_journal(group, work.records, found.put)
            for scored in score_pass(prepared, elastic, group, lambda *_: None, kept):
                found.put(scored)
            found.put(None)
        except Exception as error:
            found.put(error)

    # On a thread, so that records are sent while scoring goes on.
    threading.Thread(target=score, daemon=True).start()
    while (each := found.get()) is not None:
        if isinstance(each, Exception):
            raise each
        yield each


def _check_versions(wanted: Mapping[str, str]) -> None:
    here = library_versions()
    different = [
        f"{name} {here.get(name)} there, {version} here"
        for name, version in wanted.items()
        if here.get(name) != version
    ]
    if different:
        raise InputError(
            f"other library versions: {'; '.join(different)}; install the same on all nodes"
        )


@lru_cache(maxsize=1)
def _opened(sweep: str, recipe: str) -> Prepared:
    """The recipe, prepared; kept until a pass of another task or another sweep comes."""
    del sweep  # part of the cache's key: files may have changed since an earlier sweep
    prepared = prepare(parse_recipe(json.loads(recipe)))
    return replace(prepared, parent=with_weights(prepared.parent))


_loaded: dict[str, "ElasticParent"] = {}  # by sweep; the latest one only


def _elastic(sweep: str, prepared: Prepared) -> "ElasticParent":
    """The parent's weights; kept until a pass of another sweep comes."""
    if sweep not in _loaded:
        _loaded.clear()
        _loaded[sweep] = load_elastic(prepared)
    return _loaded[sweep]
