"""Slices on the Hub: what is sent, how it is described there, and the upload."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
