"""Loads lm-eval's tasks once for a whole sweep: names, datasets, prompts."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
