"""Slices on disk: written as checkpoints or families, and verified."""

from .adapter import slice_adapter as slice_adapter
from .family import add_to_family as add_to_family
from .family import write_family as write_family
from .slices import Written as Written
from .slices import write_slices as write_slices
from .write import write_checkpoint as write_checkpoint
