"""Attention over a packed row: who sees whom, and in which blocks of tokens."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
