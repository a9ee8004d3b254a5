"""What a worker of a Ray cluster does: one pass, streamed back."""

import json
import logging
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from matformer_lab.common.errors import InputError, one_line
from matformer_lab.parent.hub import with_weights
from matformer_lab.sweep.executors.base import Scored
from matformer_lab.sweep.executors.score_pass import load_elastic, score_pass
from matformer_lab.sweep.jobs import Prepared, prepare
from matformer_lab.sweep.key import Key
from matformer_lab.sweep.provenance import library_versions
from matformer_lab.sweep.recipe import parse_recipe

if TYPE_CHECKING:
    from matformer_lab.live.elastic import ElasticParent


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """What a worker is told: one pass of one sweep."""

    sweep: str
    """Names the sweep; what a worker has opened for another one is opened anew."""
    recipe: str
    """As JSON, with this pass's task alone, and readable anywhere (`provenance.portable`)."""
    keys: tuple[Key, ...]
    """The scores wanted, under the driver's keys."""
    versions: Mapping[str, str]
    """The driver's libraries."""
    threads: int


def score_on_worker(work: Work) -> Iterator[Scored]:
    """A Ray task: score one pass, giving each score when it is there.

    Whatever goes wrong is raised as an `InputError` that names the node; the traceback of what is
    nobody's input at fault stays in Ray's log of the worker.
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


def _scored(work: Work) -> Iterator[Scored]:
    _check_versions(work.versions)
    prepared = _opened(work.sweep, work.recipe)
    jobs = {(job.key.slice, job.key.task): job for job in prepared.jobs}
    group = [jobs[key.slice, key.task] for key in work.keys]
    for key, job in zip(work.keys, group, strict=True):
        if different := key.differences(asdict(job.key)):
            raise InputError(
                f"it would not score what this machine asks for: {'; '.join(different)} "
                "(there -> here); do all nodes see the same parent and datasets?"
            )
    if prepared.device == "cpu":
        import torch

        torch.set_num_threads(work.threads)
    elastic = _elastic(work.sweep, prepared)
    yield from score_pass(prepared, elastic, group, lambda *_: None)


def _check_versions(wanted: Mapping[str, str]) -> None:
    here = library_versions()
    different = [
        f"{name} {here.get(name)} there, {version} here"
        for name, version in wanted.items()
        if here.get(name) != version
    ]
    if different:
        raise InputError(
            f"other library versions: {'; '.join(different)}; install the same on every node"
        )


@lru_cache(maxsize=1)
def _opened(sweep: str, recipe: str) -> Prepared:
    del sweep
    prepared = prepare(parse_recipe(json.loads(recipe)))
    return replace(prepared, parent=with_weights(prepared.parent))


_loaded: dict[str, "ElasticParent"] = {}


def _elastic(sweep: str, prepared: Prepared) -> "ElasticParent":
    if sweep not in _loaded:
        _loaded.clear()
        _loaded[sweep] = load_elastic(prepared)
    return _loaded[sweep]
