"""Where a sweep's scores are computed: on this machine, or on a Ray cluster."""

from .base import Executor as Executor
from .local import LocalExecutor as LocalExecutor
from .ray_executor import ray_cluster as ray_cluster
