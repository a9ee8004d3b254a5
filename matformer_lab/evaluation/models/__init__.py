"""Slices as lm-eval models: for a sweep, and for whoever drives lm-eval themselves."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
