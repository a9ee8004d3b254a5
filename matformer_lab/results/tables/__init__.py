"""The files of a sweep folder, one by one: how each is written, and checked when it is read."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
