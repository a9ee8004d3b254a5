"""Verification: whether a checkpoint is exactly the slice it claims to be."""

from .result import Verification as Verification
from .verify import compare_checkpoints as compare_checkpoints
from .verify import verify_checkpoint as verify_checkpoint
