"""Attention over a packed row: who sees whom, and in which blocks of tokens."""

from .tree_attention import block_mask as block_mask
from .tree_attention import tree_attention as tree_attention
from .visible_blocks import visible_blocks as visible_blocks
