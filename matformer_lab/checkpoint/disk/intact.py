"""Does a shard on the disk hold what it has to? Asked before it is used again.

The parent's bytes are the truth: what a manifest or an earlier run noted of the shard is not.
"""

from pathlib import Path

import numpy as np

from matformer_lab.checkpoint.disk.shards import Shard
from matformer_lab.checkpoint.disk.tensor_bytes import child_bytes, thread_scratch
from matformer_lab.checkpoint.manifest import tensor_digest
from matformer_lab.common.errors import InputError
from matformer_lab.common.files.untrusted import open_regular, read_exactly

Digests = dict[str, str]
"""Tensor names mapped to the hexadecimal `tensor_digest` of each tensor."""


def digests_if_intact(path: Path, shard: Shard, source: Path) -> Digests | None:
    """Compare a file with what it has to be, byte for byte, header and tensors.

    Args:
        path: The file, under whatever name.
        shard: Its header and its tensors, in their order.
        source: The parent's folder.

    Returns:
        The digests of its tensors; None where it is something else, a link, or cannot be read.

    Raises:
        InputError: When the parent cannot be read.
    """
    if path.is_symlink() or not path.is_file() or path.stat().st_size != shard.nbytes:
        return None
    digests: Digests = {}
    scratch = thread_scratch()
    with open_regular(path) as file:
        if file.read(len(shard.header)) != shard.header:
            return None
        for tensor, start in shard.offsets():
            digest, done = tensor_digest(tensor.dtype, tensor.shape), 0
            for piece in child_bytes(source, tensor, scratch):
                found = scratch.buffer("compare", len(piece))
                try:
                    read_exactly(file, found.data, start + done, path)
                except InputError:
                    return None
                if not np.array_equal(found, np.frombuffer(piece, dtype=np.uint8)):
                    return None
                digest.update(piece)
                done += len(piece)
            digests[tensor.name] = digest.hexdigest()
    return digests
