"""Slices, and the plan of the child checkpoint that each of them describes."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
