"""A file written in large pieces that bypass the page cache, where the system allows it.

Filling the page cache with gigabytes of new pages costs more than the disk does on many machines,
evicts the parent that is being read, and the data must reach the disk anyway before a checkpoint
gets its final name. So whole blocks are written directly (Linux `O_DIRECT`). Data that is not
block-aligned, and all data on systems and filesystems without direct writes, takes the usual path
through the page cache.

Why not `copy_file_range` or reflinks: every byte is read anyway, for the manifest's digests, so
only the write could be saved. A reflink needs source and destination at the same offset within a
block. A safetensors file's data starts at any multiple of 8, so a child would have to copy its
header's padding from the parent's, tensor by tensor, and lose its aligned writes everywhere else.
"""

import errno
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from matformer_lab.common.units import ALIGNMENT


class DirectFile:
    """A new file of fixed size. Threads may write different blocks of it at the same time.

    Args:
        path: The file; an existing one is overwritten. Symbolic links are refused where the system
            can (`O_NOFOLLOW`).
        size: Its size in bytes.

    Raises:
        OSError: The file cannot be created.
    """

    def __init__(self, path: Path, size: int) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
        self._descriptor = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
        self._direct: int | None = None
        self._lock = threading.Lock()
        try:
            os.ftruncate(self._descriptor, size)
            if hasattr(os, "O_DIRECT"):
                self._direct = os.open(path, os.O_WRONLY | os.O_DIRECT)
        except OSError as error:
            if error.errno not in _NO_DIRECT:
                self.close()
                raise

    def write(self, data: memoryview, offset: int) -> None:
        """Write all of `data`, starting at byte `offset` of the file.

        Written directly up to the last whole block if both `offset` and the address of `data` are
        multiples of `ALIGNMENT`; the rest, and all other data, goes through the page cache.

        Raises:
            OSError: The disk refuses.
        """
        blocks = len(data) - len(data) % ALIGNMENT
        address = np.frombuffer(data, dtype=np.uint8).ctypes.data if blocks else 0
        done = 0
        if self._direct is not None and blocks and not offset % ALIGNMENT | address % ALIGNMENT:
            try:
                while done < blocks:
                    done += os.pwrite(self._direct, data[done:blocks], offset + done)
            except OSError as error:
                if error.errno not in _NO_DIRECT:
                    raise
        while done < len(data):
            done += self._write_some(data[done:], offset + done)

    def _write_some(self, data: memoryview, offset: int) -> int:
        if hasattr(os, "pwrite"):
            return os.pwrite(self._descriptor, data, offset)
        with self._lock:
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            return os.write(self._descriptor, data)

    def sync(self) -> None:
        """Make the content durable."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file; calling it again does nothing."""
        for descriptor in (self._direct, self._descriptor):
            if descriptor is not None and descriptor >= 0:
                os.close(descriptor)
        self._direct, self._descriptor = None, -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


_NO_DIRECT = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)
