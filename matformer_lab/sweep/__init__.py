"""The main work: a recipe's slices x tasks, scored, stored and written."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
