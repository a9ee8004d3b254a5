"""Batches scored by several processes of one machine."""

from .pooled_scoring import PooledScoring as PooledScoring
from .worker_pool import WorkerPool as WorkerPool
