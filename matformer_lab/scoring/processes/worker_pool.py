"""Processes on this machine that score the batches of small parents side by side.

Where a parent's matrices are too small to be shared out among CPU threads, its batches are: each
process has one thread and takes one whole batch after the other. How requests are packed does not
depend on the number of processes, so neither do scores.

The processes are plain ones, started anew: forks of a process that has threads may hang, and
`multiprocessing` would run a caller's script again in each.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Final

from matformer_lab.common.errors import InputError
from matformer_lab.scoring.batches.packing import Batch
from matformer_lab.scoring.batches.prefix_tree import Ints
from matformer_lab.scoring.processes.worker_process import Opening, ScoredBatch, Work
from matformer_lab.slicing.slice import Slice

Scored = tuple[Ints, ScoredBatch]
"""Which request each read of a batch counts towards, and the reads."""

_START: Final = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from matformer_lab.scoring.processes.worker_process import main; main()"
)


class Results:
    """The scores of a pass's batches, in the order of the batches, as they are computed.

    An iterable of (`Batch.request`, scores), which raises what a worker raised.
    """

    def __init__(self, slices: Mapping[str, Slice], batches: Iterator[Batch]) -> None:
        self.slices = slices
        self._batches = batches
        self._taking = threading.Lock()
        self._ended = False
        self._futures: SimpleQueue[Future[Scored] | None] = SimpleQueue()

    def __iter__(self) -> Iterator[Scored]:
        while (future := self._futures.get()) is not None:
            yield future.result()

    def take(self) -> tuple[Batch, Future[Scored]] | None:
        """The next batch, and where its scores go; None when there is none. Any thread may ask."""
        with self._taking:
            if self._ended:
                return None
            future: Future[Scored] = Future()
            try:
                batch = next(self._batches)
            except StopIteration:
                self.end()
                return None
            except BaseException as error:
                future.set_exception(error)
                self._futures.put(future)
                self.end()
                return None
            self._futures.put(future)
            return batch, future

    def end(self) -> None:
        """Take no more batches."""
        self._ended = True
        self._futures.put(None)


class WorkerPool:
    """Worker processes, started at once, which score what `start` is given in that order.

    Use it as a context manager: on leaving it, the processes are gone.

    Args:
        opening: What they load.
        count: How many.
    """

    def __init__(self, opening: Opening, count: int) -> None:
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="worker")
        self._workers: list[_Worker] = []
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        try:
            for _ in range(count):
                self._workers.append(_Worker(opening))
                self._idle.put(self._workers[-1])
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes' ids."""
        return tuple(worker.process.pid for worker in self._workers)

    def start(self, slices: Mapping[str, Slice], batches: Iterator[Batch]) -> Results:
        """Score batches, after those that were given before, without waiting for it.

        Args:
            slices: By name; all are among the opening's.
            batches: Packed for them. They are made on other threads than the caller's.
        """
        results = Results(slices, batches)
        for _ in self._workers:
            self._threads.submit(self._drain, results)
        return results

    def close(self) -> None:
        """End the processes at once: they hold nothing that could be lost."""
        for worker in self._workers:
            worker.process.kill()
        self._threads.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.process.wait()
            worker.connection.close()
            worker.said.close()

    def _drain(self, results: Results) -> None:
        """Let one idle worker score batches until there are no more."""
        worker = self._idle.get()
        try:
            while (taken := results.take()) is not None:
                batch, future = taken
                try:
                    future.set_result((batch.request, worker.score(results.slices, batch)))
                except BaseException as error:
                    future.set_exception(error)
                    return
        finally:
            self._idle.put(worker)


class _Worker:
    """One process, and the connection to it."""

    def __init__(self, opening: Opening) -> None:
        self._folder = opening.parent.folder
        ours, theirs = socket.socketpair()
        with theirs:
            # In a group of its own: a terminal's Ctrl-C is for the pool's process alone. What a
            # process says as it dies goes to a file, not into the user's terminal.
            self.said = tempfile.TemporaryFile()  # noqa: SIM115
            self.process = subprocess.Popen(
                [sys.executable, "-c", _START, str(theirs.fileno()), *sys.path],
                stdin=subprocess.DEVNULL,
                stdout=self.said,
                stderr=self.said,
                pass_fds=(theirs.fileno(),),
                process_group=0,
            )
        self.connection = Connection(ours.detach())
        self._slices: Mapping[str, Slice] | None = None
        with contextlib.suppress(OSError):  # it died already, which the first batch will say
            self.connection.send(opening)

    def score(self, slices: Mapping[str, Slice], batch: Batch) -> ScoredBatch:
        """Wait for the worker's scores of a batch.

        Raises:
            InputError: When the process ended, or the error that it met.
        """
        try:
            self.connection.send(Work(None if slices is self._slices else slices, batch))
            reply = self.connection.recv()
        except (EOFError, OSError):
            raise InputError(self._how_it_ended()) from None
        if isinstance(reply, Exception):
            raise reply
        self._slices = slices
        scored: ScoredBatch = reply
        return scored

    def _how_it_ended(self) -> str:
        code = self.process.wait()
        self.said.seek(0)
        last = self.said.read().decode(errors="replace").strip().rpartition("\n")[2]
        how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with {code}"
        if code == -signal.SIGBUS:
            last = f"a file in {self._folder} could not be read: the disk failed, or it was cut"
        more = f": {last}" if last else ""
        return (
            f"worker process {self.process.pid} {how}{more}; what was scored is kept: run again to "
            "continue, with fewer `workers` if memory is short"
        )
