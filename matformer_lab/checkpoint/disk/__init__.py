"""Bytes on their way to the disk: shards, and a folder that appears when complete."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
