"""Search: the best slice for a budget, found by measuring slices and proven on unseen items."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
