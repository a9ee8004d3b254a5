"""Write shards into a folder: several tensors at a time, each file whole under its name or absent.

Files grow in a second folder, which also keeps the digests of every finished shard's tensors. A run
after a kill believes those only if size and modification time are still the ones synced.
"""

import json
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Final

from matformer_lab.checkpoint.disk.shards import Shard
from matformer_lab.checkpoint.disk.tensor_bytes import child_bytes, thread_scratch
from matformer_lab.checkpoint.manifest import tensor_digest
from matformer_lab.common.atomic import write_atomic
from matformer_lab.common.direct_file import DirectFile
from matformer_lab.common.progress import Advance, quiet
from matformer_lab.slicing.plan import TensorPlan

THREADS: Final = 4
"""Tensors in work at once: while one waits for the disk another is read, cut and digested."""

Digests = dict[str, str]
"""`tensor_digest` (hex) of each tensor, by tensor name."""


def write_shards(
    source: Path,
    shards: Sequence[Shard],
    folder: Path,
    work: Path,
    *,
    advance: Advance = quiet,
    threads: int = THREADS,
) -> dict[str, Digests]:
    """Write every shard into `folder` and return, by file, the digests of its tensors.

    Shards that an earlier run finished are kept. `source` is the parent's folder, `work` a folder
    on the same filesystem as `folder`, kept between runs. Raises OSError when the disk refuses and
    `InputError` when the parent does.
    """
    stop = threading.Event()
    digests: dict[str, Digests] = {}
    writing: list[_Writing] = []
    with ThreadPoolExecutor(threads) as pool:
        try:
            pending = []
            for shard in shards:
                known = _finished(folder, work, shard)
                if known is not None:
                    digests[shard.file] = known
                    advance(sum(tensor.nbytes for tensor in shard.tensors))
                    continue
                job = _Writing(source, folder, work, shard, advance, stop)
                writing.append(job)
                # The largest first, so that no thread is left alone with it at the end.
                parts = sorted(shard.offsets(), key=lambda part: -part[0].nbytes)
                pending += [pool.submit(job.write, tensor, at) for tensor, at in parts]
            for job_done in wait(pending, return_when=FIRST_EXCEPTION).done:
                job_done.result()
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            for job in writing:
                job.abandon()
                digests[job.shard.file] = job.digests
    return digests


class _StoppedError(Exception):
    """Another tensor failed; there is no use in finishing this one."""


class _Writing:
    """A shard in work. The first tensor opens its file, the last one seals it."""

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
        self._growing = work / f"{shard.file}.growing"
        self._digests_path = _digests_path(work, shard)
        self._file: DirectFile | None = None
        self._lock = threading.Lock()

    def write(self, tensor: TensorPlan, offset: int) -> None:
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
            self._seal(file)

    def _opened(self) -> DirectFile:
        with self._lock:
            if self._file is None:
                self._file = DirectFile(self._growing, self.shard.nbytes)
                self._file.write(memoryview(self.shard.header), 0)
            return self._file

    def _seal(self, file: DirectFile) -> None:
        file.sync()
        file.close()
        state = {**_state(self._growing), "tensors": self.digests}
        write_atomic(self._digests_path, json.dumps(state).encode())
        self._growing.replace(self._path)

    def abandon(self) -> None:
        """Close the file of a shard that was not finished."""
        if self._file is not None:
            self._file.close()


def _digests_path(work: Path, shard: Shard) -> Path:
    return work / f"{shard.file}.digests.json"


def _state(path: Path) -> dict[str, Any]:
    stat = path.stat()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _finished(folder: Path, work: Path, shard: Shard) -> Digests | None:
    """The digests of a shard that an earlier run completed and nobody touched since."""
    path, notes = folder / shard.file, _digests_path(work, shard)
    if not path.is_file() or path.is_symlink() or not notes.exists():
        return None
    try:
        known = json.loads(notes.read_bytes())
        digests: Digests = known.pop("tensors")
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    same = known == _state(path) and known["size"] == shard.nbytes
    return digests if same and digests.keys() == {t.name for t in shard.tensors} else None
