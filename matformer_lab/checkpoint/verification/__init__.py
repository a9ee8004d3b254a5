"""Verification: whether a checkpoint is exactly the slice it claims to be."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
