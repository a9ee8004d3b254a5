"""Writing checkpoints to disk: shards, and a folder that appears once it is complete."""

from .shard_writer import write_shards as write_shards
from .shards import Shard as Shard
from .shards import split as split
from .staging import staging as staging
from .tensor_bytes import child_bytes as child_bytes
