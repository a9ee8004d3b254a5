"""The parent: config and tensor layout of a local folder or a Hub repository, without weights."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
