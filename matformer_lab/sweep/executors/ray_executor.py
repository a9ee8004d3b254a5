"""A sweep's scores computed on an existing Ray cluster.

Ray does the scheduling; this file only says what a Ray task is: one pass (`sweep.passes`) on one
worker (`ray_worker`), which opens the parent itself, streams each score back as it finishes, and
writes nothing. Only the driver writes the store, and the journals of passes, which come back in
pieces. So nodes have to share nothing but the parent and the datasets, and what came back before a
node died is never computed again.

A worker refuses a pass that it would score under other keys or with other library versions than the
driver's, so scores of differing nodes cannot mix.
"""

import contextlib
import io
import json
import os
import socket
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from matformer_lab.common.errors import InputError, one_line
from matformer_lab.sweep.estimate import Estimate
from matformer_lab.sweep.executors.base import Scored, ShowShare
from matformer_lab.sweep.executors.ray_worker import Work, score_on_worker
from matformer_lab.sweep.jobs import Job, Prepared
from matformer_lab.sweep.passes import pass_cost, passes
from matformer_lab.sweep.recipe import Recipe
from matformer_lab.sweep.scores.pass_journals import journal_of
from matformer_lab.sweep.scores.provenance import library_versions, portable

if TYPE_CHECKING:
    from matformer_lab.scoring.journal import FileJournal

TRIES: Final = 4
"""How often a pass is started before it counts as failed; the same as for Ray's own tasks."""

Warn = Callable[[str], None]
"""Called with one line for the user."""

_CONNECT_SECONDS: Final = 10.0
_LOOK_AT_CLUSTER_SECONDS: Final = 30.0  # how often an idle driver checks for live nodes


@dataclass
class _Running:
    """A pass on the cluster.

    Attributes:
        group: All that its worker scores.
        jobs: Those whose scores have not come back.
        journal: What its workers have computed so far.
        tries: How often the pass has been started.
    """

    group: tuple[Job, ...]
    jobs: tuple[Job, ...]
    journal: "FileJournal | None"
    tries: int = 1

    @classmethod
    def of(cls, group: tuple[Job, ...], journals: Path | None) -> "_Running":
        return cls(group, group, journal_of(group, journals) if journals else None)

    def received(self, came: Scored | bytes) -> Scored | None:
        """Take what a worker sent: a score that is new, or a record for the journal."""
        if isinstance(came, bytes):
            assert self.journal is not None, "a worker is told whether there is one"
            self.journal.append(came)
            return None
        before, self.jobs = self.jobs, tuple(job for job in self.jobs if job.key != came.key)
        return came if len(self.jobs) < len(before) else None

    def again(self, journals: Path | None) -> "_Running":
        """The pass after its worker died: all of it where that is recorded, else what is left."""
        if self.journal is not None:
            self.journal.flush()
            if self.journal.records():
                return replace(self, tries=self.tries + 1)
        return replace(_Running.of(self.jobs, journals), tries=self.tries + 1)


@contextlib.contextmanager
def ray_cluster(
    cpus_per_worker: int | None = None, *, warn: Warn = lambda _: None
) -> Iterator["RayExecutor"]:
    """An executor on the Ray cluster at RAY_ADDRESS, else on the one this machine belongs to.

    A context manager: on leaving it, passes that still run are stopped.

    Args:
        cpus_per_worker: CPUs of each worker; None: 1 beside a GPU, else all of the smallest node.
        warn: Told of dead nodes, one line each.

    Raises:
        InputError: When Ray is not installed or no cluster is found.

    Examples:
        >>> import matformer_lab as ml
        >>> with ml.ray_cluster(warn=print) as executor:  # doctest: +SKIP
        ...     ml.run_sweep("demo", "runs/demo", executor=executor)
    """
    try:
        import ray
    except ImportError:
        raise InputError(
            "the ray executor needs Ray, which is not installed: pip install 'matformer-lab[ray]'"
        ) from None
    connected_before = ray.is_initialized()
    if not connected_before:
        _connect(ray)
    executor = RayExecutor(ray, cpus_per_worker, warn)
    # Ray prints dead nodes to stdout, with pages of its log, some of it only at the end.
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            yield executor
        finally:
            executor.cancel()
            if not connected_before:
                ray.shutdown()


def _connect(ray: Any) -> None:
    """Call `ray.init` on an existing cluster; an `InputError` says why that is not possible."""
    hint = "start one (`ray start --head`), or set RAY_ADDRESS to HOST:PORT of its head node"
    address = os.environ.get("RAY_ADDRESS", "")
    if "://" in address:
        raise InputError(
            f"RAY_ADDRESS {address}: start the sweep on a node of the cluster, with HOST:PORT of "
            "its head node; from outside, use `ray job submit`"
        )
    host, _, port = address.rpartition(":")
    if host and port.isdigit():  # Ray itself would try for more than five minutes
        try:
            socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
        except OSError as error:
            raise InputError(
                f"no Ray cluster answers at RAY_ADDRESS {address} ({one_line(error)}); {hint}"
            ) from None
    try:
        ray.init(address="auto", log_to_driver=False, logging_level="CRITICAL")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(f"no Ray cluster to connect to ({one_line(error)}); {hint}") from None


class RayExecutor:
    """Scores passes as Ray tasks, with one GPU or a share of a node's CPUs each.

    `ray_cluster` makes one.
    """

    def __init__(self, ray: Any, cpus_per_worker: int | None, warn: Warn) -> None:
        self._ray = ray
        self._cpus = cpus_per_worker
        self._warn = warn
        self._running: dict[Any, _Running] = {}

    def device(self, recipe: Recipe) -> str:
        """See `Executor`; `auto` is GPUs if the cluster has any, else CPUs."""
        if recipe.device not in ("auto", "cpu", "cuda"):
            raise InputError(
                f"device: {recipe.device} is one machine's device; on a Ray cluster use cuda, cpu "
                "or auto"
            )
        if recipe.device != "auto":
            return recipe.device
        return "cuda" if any(node.get("GPU") for node in self._nodes()) else "cpu"

    def fetched(self, prepared: Prepared) -> Prepared:
        """See `Executor`; unchanged, as each node fetches the weights itself."""
        return prepared

    def session(self, prepared: Prepared) -> contextlib.AbstractContextManager["RayExecutor"]:
        """See `Executor`; this one, as each task of the cluster loads what it needs."""
        return contextlib.nullcontext(self)

    def estimate(self, prepared: Prepared, pending: Sequence[Job]) -> Estimate | None:
        """See `Executor`; None: the nodes' speed is not this machine's."""
        return None

    def scores(
        self,
        prepared: Prepared,
        pending: Sequence[Job],
        show_share: ShowShare,
        journals: Path | None = None,
    ) -> Generator[Scored]:
        """See `Executor`; the longest passes are started first.

        A pass whose worker dies is started again from what had come back of it. How far a
        running pass is, the driver does not know, so `show_share` is not called.

        Raises:
            InputError: When a worker refuses a pass or fails; and at the end, when `TRIES` workers
                died of one pass.
        """
        exceptions = self._ray.exceptions
        # A worker was killed, its node died, or a score it had sent was lost with its node.
        lost = (
            exceptions.WorkerCrashedError,
            exceptions.NodeDiedError,
            exceptions.OutOfMemoryError,
            exceptions.ObjectLostError,
        )
        gpu = prepared.device == "cuda"
        cpus = self._cpus or self._usual_cpus(gpu)
        workers = self._workers(gpu, cpus)
        if not workers:
            raise InputError(
                f"no node of the Ray cluster has {'a GPU and ' * gpu}{cpus} CPU{'s' * (cpus > 1)} "
                "for a worker; see `ray status`, or set `cpus_per_worker`"
            )
        start = self._starter(prepared, gpu, cpus)
        for group in sorted(passes(pending, workers), key=pass_cost, reverse=True):
            start(_Running.of(group, journals))
        failed: list[tuple[Job, ...]] = []
        while self._running:
            stream = self._next_ready(gpu, cpus)
            running = self._running[stream]
            try:
                scored = running.received(self._ray.get(next(stream)))
            except StopIteration:
                del self._running[stream]
            except lost as error:
                del self._running[stream]
                self._warn(_died(running, error))
                if running.tries == TRIES:
                    failed.append(running.jobs)
                else:
                    start(running.again(journals))
            except exceptions.RayTaskError as error:
                raise InputError(one_line(error.cause)) from error
            except exceptions.RayError as error:
                raise InputError(f"Ray: {_first_sentence(error)}") from error
            else:
                if scored is not None:
                    yield scored
        if failed:
            raise InputError(
                f"{TRIES} workers died while scoring {'; '.join(map(_described, failed))}; the "
                "other scores are stored, and the same command continues"
            )

    def cancel(self) -> None:
        """Stop all running passes at once; workers write nothing that could be left half done."""
        for stream, running in self._running.items():
            self._ray.cancel(stream, force=True)
            if running.journal is not None:
                running.journal.flush()
        self._running.clear()

    def _starter(self, prepared: Prepared, gpu: bool, cpus: int) -> Callable[[_Running], None]:
        """A function that sends a pass to the cluster and notes its stream of scores."""
        # This file does the retries; Ray's would compute a pass from its start.
        remote = self._ray.remote(
            num_cpus=cpus, num_gpus=int(gpu), max_retries=0, name="matformer-lab pass"
        )(score_on_worker)
        sweep = os.urandom(8).hex()

        def start(running: _Running) -> None:
            work = work_of(prepared, running.group, sweep=sweep, threads=cpus)
            if running.journal is not None:
                work = replace(work, records=tuple(running.journal.records()))
            self._running[remote.remote(work)] = running

        return start

    def _next_ready(self, gpu: bool, cpus: int) -> Any:
        """A stream that has a score, its end or an error to give."""
        told = False
        while True:
            ready, _ = self._ray.wait(
                list(self._running), num_returns=1, timeout=_LOOK_AT_CLUSTER_SECONDS
            )
            if ready:
                return ready[0]
            if not told and not self._workers(gpu, cpus):
                self._warn("no node of the Ray cluster is left to run a worker; waiting for one")
                told = True

    def _nodes(self) -> list[Mapping[str, float]]:
        """The resources of every live node."""
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def _usual_cpus(self, gpu: bool) -> int:
        """CPUs of a worker: 1 beside a GPU, else all of the smallest node that has any."""
        cpus = [int(node.get("CPU", 0)) for node in self._nodes()]
        return 1 if gpu else min((count for count in cpus if count), default=1)

    def _workers(self, gpu: bool, cpus: int) -> int:
        """How many workers can run at a time."""

        def on(node: Mapping[str, float]) -> int:
            by_cpus = int(node.get("CPU", 0)) // cpus
            return min(int(node.get("GPU", 0)), by_cpus) if gpu else by_cpus

        return sum(map(on, self._nodes()))


def work_of(prepared: Prepared, group: Sequence[Job], *, sweep: str, threads: int) -> Work:
    """What a worker needs to know to score a pass.

    Args:
        prepared: The sweep.
        group: The jobs of the pass, all of one task.
        sweep: A name of this run of the sweep.
        threads: CPU threads of the worker.
    """
    recipe = portable(prepared.recipe, prepared.parent)
    recipe["dtype"] = prepared.dtype.name  # a worker's CPU may be another
    label = group[0].task.name
    own = [task for task in recipe["tasks"] if (task["alias"] or task["name"]) == label]
    tasks = own or recipe["tasks"]  # none is what is made of them: agreement, a calibration set
    return Work(
        sweep=sweep,
        recipe=json.dumps({**recipe, "tasks": tasks, "device": prepared.device}),
        keys=tuple(job.key for job in group),
        versions=dict(library_versions()),
        threads=threads,
    )


def _described(jobs: Sequence[Job]) -> str:
    return f"{', '.join(job.name for job in jobs)} on {jobs[0].task.name}"


def _first_sentence(error: BaseException) -> str:
    """The start of a Ray error; the rest is general advice."""
    return one_line(error).partition(". ")[0]


def _died(running: _Running, error: Exception) -> str:
    left = TRIES - running.tries or "no"
    lost = f"lost the worker of {_described(running.jobs)} ({_first_sentence(error)})"
    return f"{lost}; {left} more {'try' if left == 1 else 'tries'}"
