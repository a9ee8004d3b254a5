"""What a task asks: examples, chat templates, arguments of generation, and all of it as a hash."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
