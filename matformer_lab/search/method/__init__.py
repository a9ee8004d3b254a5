"""The method of a search: space and budgets, scan, surrogate, exact solution, refinement."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
