"""The weight files of a checkpoint: which they are, and what their tensors are."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
