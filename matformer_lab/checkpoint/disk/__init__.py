"""Writing checkpoints to disk: shards, and a folder that appears once it is complete."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
