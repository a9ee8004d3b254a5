"""Where a sweep's scores are computed: on this machine, or on a Ray cluster."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
