"""Scores on disk: what each depends on, and what unfinished passes have computed."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
