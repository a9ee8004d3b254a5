"""Attention over a packed row: who sees whom, and in which blocks of tokens."""

from .tree_attention import block_mask as block_mask
from .tree_attention import by_tree_attention as by_tree_attention
from .visible_blocks import visible_blocks as visible_blocks
