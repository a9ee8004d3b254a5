"""Does a shard on the disk still hold what was written? Asked before it is used again."""

from collections.abc import Mapping
from pathlib import Path

from matformer_lab.checkpoint.disk.shards import Shard
from matformer_lab.checkpoint.disk.tensor_bytes import child_bytes, thread_scratch
from matformer_lab.checkpoint.manifest import tensor_digest
from matformer_lab.common.errors import InputError
from matformer_lab.common.untrusted import open_regular
from matformer_lab.parent.headers import TensorInfo
from matformer_lab.slicing.plan import TensorPlan


def is_intact(path: Path, shard: Shard, digests: Mapping[str, str]) -> bool:
    """Read a file and compare it with what it has to be, header and tensors.

    Args:
        path: The file, under whatever name.
        shard: Its header and its tensors, in their order.
        digests: `tensor_digest` (hexadecimal) of each tensor, by name.

    Returns:
        False too when the file cannot be read or ends early.
    """
    try:
        with open_regular(path) as file:
            if file.read(len(shard.header)) != shard.header:
                return False
        for tensor, offset in shard.offsets():
            info = TensorInfo(tensor.dtype, tensor.shape, path.name, offset)
            digest = tensor_digest(tensor.dtype, tensor.shape)
            whole = TensorPlan(tensor.name, tensor.name, info)
            for piece in child_bytes(path.parent, whole, thread_scratch()):
                digest.update(piece)
            if digest.hexdigest() != digests.get(tensor.name):
                return False
        return path.stat().st_size == shard.nbytes
    except (InputError, OSError):
        return False
