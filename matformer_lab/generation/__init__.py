"""Text written by live slices: many prompts at a time, what they share computed once."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
