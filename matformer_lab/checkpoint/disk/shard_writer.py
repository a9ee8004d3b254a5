"""Write shards into a folder, several tensors at a time; a file has its final name once complete.

Unfinished files are kept in a second folder. A resumed run compares finished ones with the parent.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Final

from matformer_lab.checkpoint.disk.intact import Digests, digests_if_intact
from matformer_lab.checkpoint.disk.shards import Shard
from matformer_lab.checkpoint.disk.tensor_bytes import child_bytes, thread_scratch
from matformer_lab.checkpoint.manifest import tensor_digest
from matformer_lab.common.files.direct_file import DirectFile
from matformer_lab.common.progress import Advance, quiet
from matformer_lab.slicing.plan import TensorPlan

THREADS: Final = 4
"""Tensors processed concurrently: while one waits for the disk, others are read and hashed."""


def write_shards(
    source: Path,
    shards: Sequence[Shard],
    folder: Path,
    work: Path,
    *,
    advance: Advance = quiet,
    threads: int = THREADS,
) -> dict[str, Digests]:
    """Write every shard into `folder`, except those that an earlier run finished.

    Args:
        source: The parent's folder.
        shards: The shards to write.
        folder: Where finished shards go.
        work: A folder for unfinished files (`growing_name`), on the same filesystem as `folder`.
        advance: Called with the number of bytes written since its last call.
        threads: Number of tensors processed concurrently.

    Returns:
        The digests of each shard's tensors, by file name.

    Raises:
        OSError: When a file cannot be written.
        InputError: When the parent cannot be read.
    """
    stop = threading.Event()
    digests: dict[str, Digests] = {}
    unfinished: list[_ShardInProgress] = []
    with ThreadPoolExecutor(threads) as pool:
        try:
            pending = []
            for shard in shards:
                known = digests_if_intact(folder / shard.file, shard, source)
                if known is not None:
                    digests[shard.file] = known
                    advance(sum(tensor.nbytes for tensor in shard.tensors))
                    continue
                in_progress = _ShardInProgress(source, folder, work, shard, advance, stop)
                unfinished.append(in_progress)
                # Largest first, so that no thread is still busy with a large one at the end.
                largest_first = sorted(shard.offsets(), key=lambda placed: -placed.tensor.nbytes)
                pending += [pool.submit(in_progress.write, *placed) for placed in largest_first]
            for future in wait(pending, return_when=FIRST_EXCEPTION).done:
                future.result()
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            for in_progress in unfinished:
                in_progress.close()
                digests[in_progress.shard.file] = in_progress.digests
    return digests


class _StoppedError(Exception):
    """Another tensor failed, so this one need not be finished."""


class _ShardInProgress:
    """A shard being written. The first tensor creates the file, the last one completes it."""

    def __init__(
        self,
        source: Path,
        folder: Path,
        work: Path,
        shard: Shard,
        advance: Advance,
        stop: threading.Event,
    ) -> None:
        self.digests: Digests = {}
        self.shard, self._source, self._advance, self._stop = shard, source, advance, stop
        self._path = folder / shard.file
        self._growing_path = work / growing_name(shard)
        self._file: DirectFile | None = None
        self._lock = threading.Lock()

    def write(self, tensor: TensorPlan, offset: int) -> None:
        """Write one tensor at its offset in the file; called from several threads."""
        file = self._opened()
        digest = tensor_digest(tensor.dtype, tensor.shape)
        for piece in child_bytes(self._source, tensor, thread_scratch()):
            if self._stop.is_set():
                raise _StoppedError
            digest.update(piece)
            file.write(piece, offset)
            offset += len(piece)
            self._advance(len(piece))
        with self._lock:
            self.digests[tensor.name] = digest.hexdigest()
            last = len(self.digests) == len(self.shard.tensors)
        if last:
            self._complete(file)

    def _opened(self) -> DirectFile:
        with self._lock:
            if self._file is None:
                self._file = DirectFile(self._growing_path, self.shard.nbytes)
                self._file.write(memoryview(self.shard.header), 0)
            return self._file

    def _complete(self, file: DirectFile) -> None:
        file.sync()
        file.close()
        self._growing_path.replace(self._path)

    def close(self) -> None:
        """Close the file, finished or not; may be called again."""
        if self._file is not None:
            self._file.close()


def growing_name(shard: Shard) -> str:
    """The name that a shard's file has until it is complete."""
    return f"{shard.file}.growing"
